/** Types of `/v1/client.js`, the client of Realtime Streams for browsers and Node. */

/** A JSON value. Type parameters replace it by the type of a stream's records. */
export type Json = unknown;

/** A token, or a function that fetches one, and another before it expires. */
export type TokenSource = string | null | (() => string | Promise<string>);

export interface ConnectOptions {
  /** The gateway's address, `https://live.example.com`; by default the one that served this module. */
  url?: string | URL;
  token?: TokenSource;
}

/** Return the API of a gateway. The connection opens with the first subscription or append. */
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
  /** The run that wrote the record, if it is not the stream's run; null for other clients. */
  source: string | null;
  /** Attempt of the run that wrote the record, from 1. */
  attempt: number;
}

export interface FollowOptions {
  /** Replaces the token of `connect` for this subscription. */
  token?: TokenSource;
  /** Minimum time between two updates, in milliseconds (50). */
  throttleMs?: number;
  onError?: (error: Problem) => void;
  onTokenExpiring?: () => void;
}

export interface StreamOptions<T = Json> extends FollowOptions {
  start?: Start;
  /**
   * Shows only one attempt of the records that the stream's run wrote. "latest": the newest attempt
   * that has written; the records of earlier ones disappear when it starts, except in `for await`.
   * Records of other runs and clients are always shown.
   */
  attempt?: number | "latest" | null;
  /** Assemble the parts of an AI answer in `parts` of the snapshot. */
  parts?: boolean;
  /** Assemble the parts of each run that writes to the stream in `partsBySource`. */
  partsBySource?: boolean;
  /** Number of records, the newest, in a snapshot (1000); null for all. */
  maxRecords?: number | null;
  onRecord?: (value: T, meta: RecordMeta) => void;
  onEnd?: (reason: EndReason) => void;
}

export interface RunOptions extends FollowOptions {
  /** Fields to leave out. */
  skip?: RunField[];
  onEnd?: (reason: EndReason) => void;
  onComplete?: (run: Run) => void;
}

export interface RunsOptions extends FollowOptions {
  skip?: RunField[];
  /** Number of runs, and how many `loadMore` adds (50). */
  limit?: number;
}

export interface Gateway {
  /** URL of its WebSocket. */
  readonly url: string;
  setToken(token: string): void;
  stream<T = Json>(runId: string, stream: string, options?: StreamOptions<T>): StreamSource<T>;
  run<P = Json, O = Json>(runId: string, options?: RunOptions): Source<RunSnapshot<P, O>>;
  runs(runs: RunSet, options?: RunsOptions): Source<RunsSnapshot>;
  /** All streams of a run; each appears with its first record. */
  streams(runId: string, options?: FollowOptions): Source<RunStreamsSnapshot>;
  /** Append one value to a stream or an input. It is written once, even if the connection is lost. */
  append(runId: string, stream: string, value: Json): Promise<Appended>;
  trigger(task: string, payload?: Record<string, Json>): Promise<RunHandle>;
  /** Request the cancellation of a run and its descendants. Returns the run after the request. */
  cancel<P = Json, O = Json>(runId: string): Promise<RunFields<P, O>>;
  /** An input of a run, with the state of its sends. Null: no run yet. */
  input<T = Json>(runId: string | null, stream: string): Input<T>;
  /** A task, with the state of its triggers. */
  task<P extends object = Record<string, Json>>(task: string): Task<P>;
}

/** The state of an action, whose calls run one at a time. */
export interface ActionSnapshot {
  /** A call is executing or queued. */
  readonly isPending: boolean;
  /** Number of successful calls. */
  readonly count: number;
  /** Error of the last failed call. The next call that starts while none is pending clears it. */
  readonly error: Problem | null;
}

export interface TriggerSnapshot extends ActionSnapshot {
  /** The run of the last trigger, and a token that may read it. */
  readonly handle: RunHandle | null;
}

/** A failed call sets `snapshot.error`. To await a call and catch its error, use `gateway.append`. */
export interface Input<T = Json> extends Source<ActionSnapshot> {
  send(value: T): Promise<void>;
}

/** A failed call sets `snapshot.error`. To await a call and catch its error, use `gateway.trigger`. */
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
  /** The current snapshot; empty without a subscription. */
  readonly snapshot: S;
  /** Call the listener with the current snapshot and at each change. Returns a function that unsubscribes. */
  subscribe(listener: (snapshot: S) => void): () => void;
}

export interface StreamSource<T> extends Source<StreamSnapshot<T>>, AsyncIterable<T> {
  /** Iterate over the records, each once and in order, until the stream ends with `completed`. */
  records(): AsyncGenerator<StreamRecord<T>, void, void>;
}

export interface StreamRecord<T> {
  offset: number;
  time_ms: number;
  data: T;
  source?: string | null;
  /** Attempt of the run that wrote the record; absent: the first. */
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
  /** All string values joined. */
  readonly text: string;
  /** Number of records received. */
  readonly count: number;
  /** Number of received records that are no longer in the snapshot. */
  readonly dropped: number;
  readonly gaps: readonly { from: string; to: string; reason: string }[];
  /** Why the stream is empty, if the run has ended without writing to it. */
  readonly hint: string | null;
  readonly position: string | null;
  /** The assembled AI answer; empty without the option `parts`. */
  readonly parts: Parts;
  readonly partsBySource: readonly { readonly source: string | null; readonly parts: Parts }[];
  last(count: number): T[];
}

/** An AI answer assembled so far. */
export interface Parts {
  readonly text: string;
  readonly reasoning: string;
  /** In the order of their first part. */
  readonly tool_calls: readonly ToolCall[];
  readonly sources: readonly {
    readonly id: string | null;
    readonly url: string | null;
    readonly title: string | null;
  }[];
  /** The newest value by name. */
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
  /** Null until it is complete. */
  readonly input: Json;
  /** The input while it streams, "" afterwards. */
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
  /** Whether a crashed attempt is retried; an older gateway leaves the field out. */
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
  /** In a set: fields left out because of their size, with their bytes. `GET /v1/runs/{id}` has them. */
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

/** The part of React that the hooks use. */
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

/** Each hook is subscribed while its component is mounted. Pass null while there is no run. */
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

/** Make React hooks with the application's React: `createHooks(React)`. */
export function createHooks(react: ReactLike): Hooks;

/** A rejection by the gateway. */
export class RealtimeError extends Error {
  readonly code: string;
  constructor(problem: Problem);
}
