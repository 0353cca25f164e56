/** Types of `/v1/client.js`: the browser's client of Realtime Streams. */

/** A JSON value; give the type of a stream's records where it is known. */
export type Json = unknown;

/** One token, or a function that fetches one, and another when it comes to its end. */
export type TokenSource = string | null | (() => string | Promise<string>);

export interface ConnectOptions {
  /** The gateway's address, `https://live.example.com`; left out: where this module came from. */
  url?: string | URL;
  token?: TokenSource;
}

/** Reach a gateway. Nothing is sent before something is asked for. */
export function connect(options?: ConnectOptions): Gateway;

export type Start = "beginning" | "latest" | { position: string } | { last: number };
export type RunField = "payload" | "output" | "metadata";
export type RunSet = { tag: string } | { tags: string[] } | { batch: string } | { parent: string };

export type EndReason =
  | "completed"
  | "failed"
  | "canceled"
  | "crashed"
  | "expired"
  | "timed_out"
  | "deleted";

export interface Problem {
  code: string;
  message: string;
}

export interface RecordMeta {
  offset: number;
  time_ms: number;
  /** The run that wrote it, if that is not the stream's own; null for a client from outside. */
  source: string | null;
  /** Of the run that wrote it, from 1. */
  attempt: number;
}

export interface FollowOptions {
  /** In place of the gateway's own token. */
  token?: TokenSource;
  /** At most one update in so many milliseconds; 50. */
  throttleMs?: number;
  onError?: (error: Problem) => void;
  onTokenExpiring?: () => void;
}

export interface StreamOptions<T = Json> extends FollowOptions {
  start?: Start;
  /**
   * Of what the stream's own run wrote, only that of one attempt; "latest": only that of the newest
   * that has written, and what an earlier one wrote is taken back when it begins. What other runs
   * and clients wrote is always there. In `for await` nothing is taken back.
   */
  attempt?: number | "latest" | null;
  /** Assemble the parts of an AI answer, in `parts` of the snapshot. */
  parts?: boolean;
  /** Assemble them for each run that writes into the stream, in `partsBySource`. */
  partsBySource?: boolean;
  /** The newest records that are kept; null: all. 1000. */
  maxRecords?: number | null;
  onRecord?: (value: T, meta: RecordMeta) => void;
  onEnd?: (reason: EndReason) => void;
}

export interface RunOptions extends FollowOptions {
  /** Fields that are left out. */
  skip?: RunField[];
  onEnd?: (reason: EndReason) => void;
  onComplete?: (run: Run) => void;
}

export interface RunsOptions extends FollowOptions {
  skip?: RunField[];
  /** How many runs, and how many more at a time; 50. */
  limit?: number;
}

export interface Gateway {
  /** Of its WebSocket. */
  readonly url: string;
  setToken(token: string): void;
  stream<T = Json>(runId: string, stream: string, options?: StreamOptions<T>): StreamSource<T>;
  run<P = Json, O = Json>(runId: string, options?: RunOptions): Source<RunSnapshot<P, O>>;
  runs(runs: RunSet, options?: RunsOptions): Source<RunsSnapshot>;
  /** All streams of a run, as they appear. */
  streams(runId: string, options?: FollowOptions): Source<RunStreamsSnapshot>;
  /** Append one value to a stream, or send it to an input; once, also over a lost connection. */
  append(runId: string, stream: string, value: Json): Promise<Appended>;
  trigger(task: string, payload?: Record<string, Json>): Promise<RunHandle>;
  /** Ask for a run, and the runs below it, to be canceled; gives the run after the request. */
  cancel<P = Json, O = Json>(runId: string): Promise<RunFields<P, O>>;
  /** An input of a run, with what became of what was sent. Null: there is no run yet. */
  input<T = Json>(runId: string | null, stream: string): Input<T>;
  /** A task, with what became of its triggers. */
  task<P extends object = Record<string, Json>>(task: string): Task<P>;
}

/** What is known of the calls of an action, which are made one after the other. */
export interface ActionSnapshot {
  /** A call is under way or waits for its turn. */
  readonly isPending: boolean;
  /** How many calls have succeeded. */
  readonly count: number;
  /** Of the last call that failed; gone when one is made while none is pending. */
  readonly error: Problem | null;
}

export interface TriggerSnapshot extends ActionSnapshot {
  /** The run that was triggered last, and a token that reads it. */
  readonly handle: RunHandle | null;
}

/** A failure is in the snapshot; to await one call, and to catch it, use `gateway.append`. */
export interface Input<T = Json> extends Source<ActionSnapshot> {
  send(value: T): Promise<void>;
}

/** A failure is in the snapshot; to await one call, and to catch it, use `gateway.trigger`. */
export interface Task<P extends object = Record<string, Json>> extends Source<TriggerSnapshot> {
  trigger(payload?: P): Promise<void>;
}

export interface Appended {
  offset: number | null;
  position: string;
}

export interface RunHandle {
  id: string;
  access_token: string;
}

export interface Source<S> {
  /** What is known now; what nobody follows is not known. */
  readonly snapshot: S;
  /** Follow it: called with what is known now, and at each change. Call the result to stop. */
  subscribe(listener: (snapshot: S) => void): () => void;
}

export interface StreamSource<T> extends Source<StreamSnapshot<T>>, AsyncIterable<T> {
  /** Each record once, in order; the loop ends when the stream is completed. */
  records(): AsyncGenerator<StreamRecord<T>, void, void>;
}

export interface StreamRecord<T> {
  offset: number;
  time_ms: number;
  data: T;
  source?: string | null;
  /** Of the run that wrote it; absent: the first. */
  attempt?: number;
}

export type Status = "idle" | "connecting" | "live" | "reconnecting" | "ended" | "error";

export interface Snapshot {
  readonly status: Status;
  readonly endReason: EndReason | null;
  readonly error: Problem | null;
}

export interface StreamSnapshot<T> extends Snapshot {
  readonly data: readonly T[];
  readonly records: readonly StreamRecord<T>[];
  readonly latest: T | null;
  /** All strings, joined. */
  readonly text: string;
  /** How many records were seen, and how many of them are no longer kept. */
  readonly count: number;
  readonly dropped: number;
  readonly gaps: readonly { from: string; to: string; reason: string }[];
  /** Why there is nothing, if the run has ended without such a stream. */
  readonly hint: string | null;
  readonly position: string | null;
  /** The answer that its parts come to; empty unless `parts` was asked for. */
  readonly parts: Parts;
  readonly partsBySource: readonly { readonly source: string | null; readonly parts: Parts }[];
  last(count: number): T[];
}

/** An AI answer as far as it has come. */
export interface Parts {
  readonly text: string;
  readonly reasoning: string;
  /** In the order in which they were first heard of. */
  readonly tool_calls: readonly ToolCall[];
  readonly sources: readonly {
    readonly id: string | null;
    readonly url: string | null;
    readonly title: string | null;
  }[];
  /** The newest value of each name. */
  readonly data: Readonly<Record<string, Json>>;
  readonly steps: readonly {
    readonly index: number;
    readonly state: "running" | "done" | "failed";
  }[];
  readonly finish: { readonly reason: string; readonly usage: Json } | null;
  readonly error: string | null;
}

export interface ToolCall {
  readonly id: string;
  readonly name: string;
  /** Null until it is whole. */
  readonly input: Json;
  /** The input while it is being written, "" afterwards. */
  readonly input_text: string;
  readonly output: Json;
  readonly state: "streaming" | "waiting" | "running" | "done" | "failed" | "denied";
  readonly approval: "requested" | "approved" | "denied" | null;
  readonly reason: string | null;
}

export interface RunSnapshot<P = Json, O = Json> extends Snapshot {
  readonly run: Run<P, O> | null;
}

export interface RunsSnapshot extends Snapshot {
  readonly runs: readonly Run[];
  readonly hasMore: boolean;
  readonly isFull: boolean;
  readonly loadMore: () => void;
}

export interface RunStreamsSnapshot extends Snapshot {
  readonly streams: Readonly<Record<string, RunStream>>;
}

export interface RunStream {
  readonly id: string;
  readonly data: readonly Json[];
  readonly latest: Json;
  readonly text: string;
  readonly count: number;
  readonly status: Status;
  readonly end_reason: EndReason | "";
  readonly error: string;
}

export type RunStatus =
  | "delayed"
  | "queued"
  | "executing"
  | "waiting"
  | "completed"
  | "failed"
  | "canceled"
  | "crashed"
  | "expired"
  | "timed_out";

export interface RunError {
  type: string;
  message: string;
}

/** The fields of a run as the gateway sends them. */
export interface RunFields<P = Json, O = Json> {
  readonly id: string;
  readonly task: string;
  readonly status: RunStatus;
  readonly tags: readonly string[];
  readonly metadata: Readonly<Record<string, Json>>;
  readonly payload: P | null;
  readonly output: O | null;
  readonly error: RunError | null;
  readonly last_error: RunError | null;
  readonly attempt: number;
  readonly max_attempts: number;
  /** Whether an attempt whose process died is followed by another; an older gateway leaves it out. */
  readonly retry_on_crash: boolean;
  readonly parent_id: string | null;
  readonly root_id: string;
  readonly batch_id: string | null;
  readonly created_at: string;
  readonly queued_at: string | null;
  readonly started_at: string | null;
  readonly finished_at: string | null;
  readonly cancel_requested_at: string | null;
  readonly delay_until: string | null;
  readonly expires_at: string | null;
  readonly max_duration_s: number | null;
  readonly idempotency_key: string | null;
  readonly idempotency_key_expires_at: string | null;
  readonly owner: string | null;
  readonly duration_ms: number | null;
  /** Of a set: fields that were left out since they are large, and their bytes; `GET /v1/runs/{id}` has them. */
  readonly omitted?: Readonly<Record<string, number>>;
}

export interface Run<P = Json, O = Json> extends RunFields<P, O> {
  readonly is_queued: boolean;
  readonly is_executing: boolean;
  readonly is_waiting: boolean;
  /** The run has ended, with any result. */
  readonly is_finished: boolean;
  /** The same as `is_finished`, under the name that Trigger.dev's hooks use; true for a failed run too. */
  readonly is_completed: boolean;
  readonly is_success: boolean;
  readonly is_failed: boolean;
  readonly is_canceled: boolean;
}

/** What the hooks need of React. */
export interface ReactLike {
  useEffect(effect: () => void): void;
  useMemo<V>(make: () => V, dependencies: readonly unknown[]): V;
  useRef<V>(value: V): { current: V };
  useSyncExternalStore<V>(
    subscribe: (notify: () => void) => () => void,
    getSnapshot: () => V,
    getServerSnapshot?: () => V,
  ): V;
}

/** Each follows for as long as its component is there; without a run yet, give null. */
export interface Hooks {
  useRealtimeStream<T = Json>(
    gateway: Gateway,
    runId: string | null,
    stream: string,
    options?: StreamOptions<T>,
  ): StreamSnapshot<T>;
  useRealtimeRun<P = Json, O = Json>(
    gateway: Gateway,
    runId: string | null,
    options?: RunOptions,
  ): RunSnapshot<P, O>;
  useRealtimeRuns(gateway: Gateway, runs: RunSet, options?: RunsOptions): RunsSnapshot;
  useRealtimeRunStreams(
    gateway: Gateway,
    runId: string | null,
    options?: FollowOptions,
  ): RunStreamsSnapshot;
  useInputStream<T = Json>(
    gateway: Gateway,
    runId: string | null,
    stream: string,
  ): ActionSnapshot & Pick<Input<T>, "send">;
  useTaskTrigger<P extends object = Record<string, Json>>(
    gateway: Gateway,
    task: string,
  ): TriggerSnapshot & Pick<Task<P>, "trigger">;
}

/** Make React hooks with an application's own React: `createHooks(React)`. */
export function createHooks(react: ReactLike): Hooks;

/** What the gateway refused, and why. */
export class RealtimeError extends Error {
  readonly code: string;
  constructor(problem: Problem);
}
