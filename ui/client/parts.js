/**
 * Fold the parts of an AI answer into what a page shows.
 *
 * Each `add` costs in proportion to its parts; the objects handed out are never changed afterwards.
 */

/** An answer of which nothing has come. */
export const NO_PARTS = Object.freeze({
  text: "",
  reasoning: "",
  tool_calls: Object.freeze([]),
  finish: null,
  error: null,
});

export class PartsAssembler {
  /**
   * The answer so far. Its names are those of the wire, since Python's typed Vars reach into it.
   *
   * @type {{text: string, reasoning: string, finish: {reason: string, usage: object|null}|null,
   *   error: string|null, tool_calls: {id: string, name: string, input: unknown, output: unknown,
   *   state: "running"|"done"|"failed"}[]}}
   */
  value = NO_PARTS;
  #placeOfCall = new Map();

  /** @param {object[]} parts those that are new; kinds that are not known are passed over */
  add(parts) {
    const draft = { ...this.value, tool_calls: [...this.value.tool_calls] };
    for (const part of parts) this.#take(draft, part);
    this.value = draft;
  }

  #take(draft, part) {
    switch (part?.type) {
      case "text-delta":
        draft.text += part.text;
        break;
      case "reasoning-delta":
        draft.reasoning += part.text;
        break;
      case "tool-call":
        this.#setCall(draft, part.id, { name: part.name, input: part.input ?? null });
        break;
      case "tool-result": {
        const state = part.is_error ? "failed" : "done";
        this.#setCall(draft, part.id, { output: part.output ?? null, state });
        break;
      }
      case "error":
        draft.error = part.message;
        break;
      case "finish":
        draft.finish = { reason: part.reason, usage: part.usage ?? null };
    }
  }

  // A result may come without its call, when the records before it are no longer kept.
  #setCall(draft, id, changes) {
    const place = this.#placeOfCall.get(id) ?? draft.tool_calls.length;
    this.#placeOfCall.set(id, place);
    const before = draft.tool_calls[place] ?? newCall(id);
    draft.tool_calls[place] = { ...before, ...changes };
  }
}

const newCall = (id) => ({ id, name: "", input: null, output: null, state: "running" });
