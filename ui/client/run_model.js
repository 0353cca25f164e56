/** A run on a page: its fields, and those computed from them. */

const FAILED = ["failed", "crashed", "expired", "timed_out"];
const FINAL = ["completed", "canceled", ...FAILED];

/**
 * Return the model of a run. It has the names of the wire, as Python's typed Vars read its fields.
 *
 * Source: PROTOCOL.md 6.
 * @param {object} run the run as the gateway sends it
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
