/**
 * Assembles the parts of an AI answer to its text, tool calls and sources.
 *
 * The cost of `add` is proportional to its parts. A returned object never changes, and an unchanged
 * one stays the same object. `gateway/sdk/assembler.py` does the same in Python, and documents the
 * states of a tool call.
 */

/**
 * An answer assembled so far. It has the names of the wire, as Python's typed Vars read its fields.
 *
 * @typedef {object} Parts
 * @property {string} text
 * @property {string} reasoning
 * @property {Call[]} tool_calls in the order of their first part
 * @property {{id: string|null, url: string|null, title: string|null}[]} sources without duplicates
 * @property {Object<string, unknown>} data the newest value by name
 * @property {{index: number, state: "running"|"done"|"failed"}[]} steps
 * @property {{reason: string, usage: object|null}|null} finish the last one; `usage` is the sum of all
 * @property {string|null} error
 *
 * @typedef {object} Call
 * @property {string} id
 * @property {string} name
 * @property {unknown} input null until it is complete
 * @property {string} input_text the input while it streams, "" afterwards
 * @property {unknown} output
 * @property {"streaming"|"waiting"|"running"|"done"|"failed"|"denied"} state
 * @property {"requested"|"approved"|"denied"|null} approval
 * @property {string|null} reason of the approval
 */

/** An answer without parts. @type {Parts} */
export const NO_PARTS = Object.freeze({
  text: "",
  reasoning: "",
  tool_calls: Object.freeze([]),
  sources: Object.freeze([]),
  data: Object.freeze({}),
  steps: Object.freeze([]),
  finish: null,
  error: null,
});

/** The answers of no run. */
export const NO_SOURCES = Object.freeze([]);

export class PartsAssembler {
  /** @type {Parts} */
  value = NO_PARTS;
  #draft;
  /** Data of each tool call, and its index, by id. @type {Map<string, {index: number}>} */
  #calls = new Map();
  #touchedCalls = new Set();
  #sourceIndex = new Map();
  #stepIndex = new Map();

  /** @param {object[]} parts new parts; unknown types are ignored */
  add(parts) {
    this.#draft = { ...this.value };
    for (const part of parts) this.#apply(part);
    for (const id of this.#touchedCalls) this.#publish(id, this.#calls.get(id));
    this.#touchedCalls.clear();
    if (Object.keys(NO_PARTS).some((name) => this.#draft[name] !== this.value[name])) {
      this.value = this.#draft;
    }
  }

  #apply(part) {
    const draft = this.#draft;
    switch (part?.type) {
      case "text-delta":
        draft.text += part.text ?? "";
        break;
      case "reasoning-delta":
        draft.reasoning += part.text ?? "";
        break;
      case "tool-input-start":
      case "tool-input-delta":
      case "tool-call":
      case "tool-approval":
      case "tool-result":
        this.#applyToCall(part);
        break;
      case "source":
        this.#addSource(part);
        break;
      case "data":
        draft.data = { ...draft.data, [part.name]: part.value ?? null };
        break;
      case "step":
        this.#setStep(part.index, part.state === "start" ? "running" : "done");
        break;
      case "error":
        this.#failOpenCalls(part.message);
        break;
      case "finish":
        this.#finish(part);
    }
  }

  #applyToCall(part) {
    let call = this.#calls.get(part.id);
    if (call === undefined || isRestarted(call, part)) {
      call = { ...NEW_CALL, index: call?.index ?? this.#calls.size };
      this.#calls.set(part.id, call);
    }
    addToCall(call, part);
    this.#touchedCalls.add(part.id);
  }

  #publish(id, call) {
    const { name, input, input_text, output, approval, reason } = call;
    const snapshot = { id, name, input, input_text, output, state: stateOf(call), approval, reason };
    this.#writable("tool_calls")[call.index] = snapshot;
  }

  #addSource({ id = null, url = null, title = null }) {
    const sources = this.#writable("sources");
    const key = id === null ? url : `id ${id}`; // not the beginning of any URL
    const index = (key === null ? undefined : this.#sourceIndex.get(key)) ?? sources.length;
    if (key !== null) this.#sourceIndex.set(key, index);
    const before = sources[index] ?? { id: null, url: null, title: null };
    sources[index] = { id: id ?? before.id, url: url ?? before.url, title: title ?? before.title };
  }

  #setStep(index, state) {
    const position = this.#stepIndex.get(index) ?? this.#stepIndex.size;
    this.#stepIndex.set(index, position);
    this.#writable("steps")[position] = { index, state };
  }

  #failOpenCalls(message) {
    this.#draft.error = message;
    for (const [id, call] of this.#calls) {
      if (isFinished(call)) continue;
      call.isAborted = true;
      this.#touchedCalls.add(id);
    }
    for (const { index, state } of this.#draft.steps) {
      if (state === "running") this.#setStep(index, "failed");
    }
  }

  #finish({ reason, usage = null }) {
    const previous = this.#draft.finish?.usage ?? null;
    this.#draft.finish = { reason, usage: addUsage(previous, usage) };
    for (const [id, call] of this.#calls) {
      if (stateOf(call) !== "streaming") continue;
      call.isAborted = true;
      this.#touchedCalls.add(id);
    }
  }

  /** Return a copy of a list in the draft, made at its first change. */
  #writable(name) {
    if (this.#draft[name] === this.value[name]) this.#draft[name] = [...this.value[name]];
    return this.#draft[name];
  }
}

const NEW_CALL = Object.freeze({
  name: "",
  input: null,
  hasInput: false,
  input_text: "",
  output: null,
  isError: null, // null: no result yet
  approval: null,
  reason: null,
  isAborted: false,
});

// Some providers number the calls of each step from 0, so an id may be used again.
const isRestarted = (call, { type }) =>
  call.hasInput && (type === "tool-input-start" || (type === "tool-call" && isFinished(call)));

const isFinished = (call) => call.isError !== null || call.approval === "denied";

function addToCall(call, part) {
  call.isAborted = false;
  switch (part.type) {
    case "tool-input-start":
      Object.assign(call, { name: part.name ?? "", input_text: "" });
      break;
    case "tool-input-delta":
      if (!call.hasInput) call.input_text += part.delta ?? "";
      break;
    case "tool-call": {
      const { name = "", input = null } = part;
      Object.assign(call, { name, input, hasInput: true, input_text: "" });
      break;
    }
    case "tool-approval":
      Object.assign(call, { approval: part.state, reason: part.reason ?? null });
      break;
    case "tool-result":
      Object.assign(call, { output: part.output ?? null, isError: part.is_error ?? false });
  }
}

function stateOf(call) {
  if (call.approval === "denied") return "denied";
  if (call.isError !== null) return call.isError ? "failed" : "done";
  if (call.isAborted) return "failed";
  if (call.approval === "requested") return "waiting";
  return call.hasInput || call.approval === "approved" ? "running" : "streaming";
}

// Adds numbers, and objects field by field. For other types, returns the newer value.
function addUsage(before, more) {
  if (before === null || more === null) return more ?? before;
  if (isObject(before) && isObject(more)) {
    const added = Object.entries(more).map(([name, value]) => {
      return [name, addUsage(Object.hasOwn(before, name) ? before[name] : null, value)];
    });
    return { ...before, ...Object.fromEntries(added) };
  }
  return typeof before === "number" && typeof more === "number" ? before + more : more;
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/**
 * Assembles one answer for each run that writes to a stream. One assembler would mix the text of a
 * sub-agent with the text of the run that it writes to.
 */
export class SourcesAssembler {
  /** In the order of their first part. @type {{source: string|null, parts: Parts}[]} */
  value = NO_SOURCES;
  #run;
  #assemblers = new Map();

  /** @param {string} run the run of the stream; its records have no source */
  constructor(run) {
    this.#run = run;
  }

  /** @param {{source?: string|null, data: object}[]} records new records */
  add(records) {
    const value = [...this.value];
    for (const [source, parts] of this.#bySource(records)) {
      if (!this.#assemblers.has(source)) {
        this.#assemblers.set(source, { index: value.length, assembler: new PartsAssembler() });
      }
      const { index, assembler } = this.#assemblers.get(source);
      assembler.add(parts);
      if (value[index]?.parts !== assembler.value) {
        value[index] = { source, parts: assembler.value };
      }
    }
    if (value.some((group, index) => group !== this.value[index])) this.value = value;
  }

  #bySource(records) {
    const groups = new Map();
    for (const { source = this.#run, data } of records) {
      if (!groups.has(source)) groups.set(source, []);
      groups.get(source).push(data);
    }
    return groups;
  }
}
