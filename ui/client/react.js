/**
 * React hooks over what `client.js` follows, for an application that brings its own React.
 */

import { IDLE_ACTION } from "./actions.js";
import { IDLE } from "./snapshot.js";

const HANDLERS = ["onRecord", "onEnd", "onComplete", "onError", "onTokenExpiring"];

/** One component's view of a source: what it saw last, and who is told of changes. */
class SourceStore {
  #source;
  #snapshot;

  constructor(source) {
    this.#source = source;
    this.#snapshot = source.snapshot;
  }

  getSnapshot = () => this.#snapshot;

  subscribe = (notify) =>
    this.#source.subscribe((snapshot) => {
      if (snapshot === this.#snapshot) return;
      this.#snapshot = snapshot;
      notify();
    });
}

/**
 * Make the hooks. A component that asks for another run, stream or token at its next render is
 * shown that at once, and never what was before.
 *
 * @param {{useEffect: Function, useMemo: Function, useRef: Function, useSyncExternalStore: Function}} React
 */
export function createHooks({ useEffect, useMemo, useRef, useSyncExternalStore }) {
  function useSource(gateway, method, what, options) {
    const newest = useRef(options);
    useEffect(() => {
      newest.current = options;
    });
    // Handlers may be other functions at each render: those of the newest are called.
    const key = JSON.stringify([method, what, options]);
    const shown = useMemo(() => {
      const handlers = HANDLERS.filter((name) => options[name] !== undefined).map((name) => [
        name,
        (...values) => newest.current[name]?.(...values),
      ]);
      return new SourceStore(gateway[method](...what, { ...options, ...Object.fromEntries(handlers) }));
    }, [gateway, key]);
    return useSyncExternalStore(shown.subscribe, shown.getSnapshot, idle);
  }

  function useAction(make, named) {
    const action = useMemo(make, named);
    const shown = useMemo(() => new SourceStore(action), [action]);
    const state = useSyncExternalStore(shown.subscribe, shown.getSnapshot, idleAction);
    return [state, action];
  }

  return {
    useInputStream: (gateway, runId, stream) => {
      const make = () => gateway.input(runId, stream);
      const [state, input] = useAction(make, [gateway, runId, stream]);
      return { ...state, send: (value) => input.send(value) };
    },
    useTaskTrigger: (gateway, task) => {
      const [state, action] = useAction(() => gateway.task(task), [gateway, task]);
      return { ...state, trigger: (payload) => action.trigger(payload) };
    },
    useRealtimeStream: (gateway, runId, stream, options = {}) =>
      useSource(gateway, "stream", [runId, stream], options),
    useRealtimeRun: (gateway, runId, options = {}) => useSource(gateway, "run", [runId], options),
    useRealtimeRuns: (gateway, runs, options = {}) => useSource(gateway, "runs", [runs], options),
    useRealtimeRunStreams: (gateway, runId, options = {}) =>
      useSource(gateway, "streams", [runId], options),
  };
}

const idle = () => IDLE;
const idleAction = () => IDLE_ACTION;
