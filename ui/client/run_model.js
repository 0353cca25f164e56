/** A run as a page shows it: its fields, and what follows from them. */

const FAILED = ["failed", "crashed", "expired", "timed_out"];
const FINAL = ["completed", "canceled", ...FAILED];

/**
 * Source: PROTOCOL.md 6. The names are those of the wire, since Python's typed Vars reach into it.
 *
 * @param {object} run as the gateway gives it
 */
export const toRunModel = (run) =>
  Object.freeze({
    payload: null,
    output: null,
    ...run,
    metadata: run.metadata ?? {},
    queued_at: run.queued_at ?? run.created_at ?? null,
    duration_ms: run.duration_ms ?? durationMs(run),
    is_queued: ["delayed", "queued"].includes(run.status),
    is_executing: ["executing", "waiting"].includes(run.status),
    is_waiting: run.status === "waiting",
    is_finished: FINAL.includes(run.status),
    is_completed: FINAL.includes(run.status),
    is_success: run.status === "completed",
    is_failed: FAILED.includes(run.status),
    is_canceled: run.status === "canceled",
  });

const durationMs = ({ started_at, finished_at }) =>
  started_at && finished_at ? Date.parse(finished_at) - Date.parse(started_at) : null;
