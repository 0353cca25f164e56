/**
 * Fold the parts of an AI answer into what a page shows.
 *
 * Each `add` costs in proportion to its parts; the objects handed out are never changed afterwards,
 * and what has not changed stays the same object. Python does the same
 * (`gateway/sdk/assembler.py`, which says what a tool call's state follows from).
 */

/**
 * An answer as far as it has come. Its names are those of the wire, since Python's typed Vars reach
 * into it.
 *
 * @typedef {object} Parts
 * @property {string} text
 * @property {string} reasoning
 * @property {Call[]} tool_calls in the order in which they were first heard of
 * @property {{id: string|null, url: string|null, title: string|null}[]} sources each once
 * @property {Object<string, unknown>} data the newest value of each name
 * @property {{index: number, state: "running"|"done"|"failed"}[]} steps
 * @property {{reason: string, usage: object|null}|null} finish the last, with the usage of all
 * @property {string|null} error
 *
 * @typedef {object} Call
 * @property {string} id
 * @property {string} name
 * @property {unknown} input null until it is whole
 * @property {string} input_text the input while it is being written, "" afterwards
 * @property {unknown} output
 * @property {"streaming"|"waiting"|"running"|"done"|"failed"|"denied"} state
 * @property {"requested"|"approved"|"denied"|null} approval
 * @property {string|null} reason of the approval
 */

/** An answer of which nothing has come. @type {Parts} */
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

/** An answer of which no run has written anything. */
export const NO_SOURCES = Object.freeze([]);

export class PartsAssembler {
  /** @type {Parts} */
  value = NO_PARTS;
  #draft;
  /** What is known of each tool call, and its index. @type {Map<string, {index: number}>} */
  #calls = new Map();
  #touchedCalls = new Set();
  #sourceIndex = new Map();
  #stepIndex = new Map();

  /** @param {object[]} parts those that are new; types that are not known are passed over */
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
    const shown = { id, name, input, input_text, output, state: stateOf(call), approval, reason };
    this.#writable("tool_calls")[call.index] = shown;
  }

  #addSource({ id = null, url = null, title = null }) {
    const sources = this.#writable("sources");
    const key = id === null ? url : `id ${id}`; // no URL begins like this
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
      if (isOver(call)) continue;
      call.isAborted = true;
      this.#touchedCalls.add(id);
    }
    for (const { index, state } of this.#draft.steps) {
      if (state === "running") this.#setStep(index, "failed");
    }
  }

  #finish({ reason, usage = null }) {
    const used = this.#draft.finish?.usage ?? null;
    this.#draft.finish = { reason, usage: addUsage(used, usage) };
    for (const [id, call] of this.#calls) {
      if (stateOf(call) !== "streaming") continue;
      call.isAborted = true;
      this.#touchedCalls.add(id);
    }
  }

  /** The draft's own copy of a list, made when it is first changed. */
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
  isError: null, // null: there is no result
  approval: null,
  reason: null,
  isAborted: false,
});

// Some providers number the calls of each step from 0.
const isRestarted = (call, { type }) =>
  call.hasInput && (type === "tool-input-start" || (type === "tool-call" && isOver(call)));

const isOver = (call) => call.isError !== null || call.approval === "denied";

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

// Numbers are added, objects field by field; of anything else the newer one counts.
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
 * Fold a stream into which several runs write, each run's answer by itself: a sub-agent's text and
 * that of the run it writes to would be mixed up in one.
 */
export class SourcesAssembler {
  /** In the order in which they began. @type {{source: string|null, parts: Parts}[]} */
  value = NO_SOURCES;
  #run;
  #assemblers = new Map();

  /** @param {string} run the stream's own, whose records name no source */
  constructor(run) {
    this.#run = run;
  }

  /** @param {{source?: string|null, data: object}[]} records those that are new */
  add(records) {
    const value = [...this.value];
    for (const [source, parts] of this.#bySource(records)) {
      if (!this.#assemblers.has(source)) {
        this.#assemblers.set(source, { index: value.length, of: new PartsAssembler() });
      }
      const { index, of } = this.#assemblers.get(source);
      of.add(parts);
      if (value[index]?.parts !== of.value) value[index] = { source, parts: of.value };
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
