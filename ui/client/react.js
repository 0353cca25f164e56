/**
 * React hooks over the sources of `client.js`, for an application with its own React.
 */

import { IDLE_ACTION } from "./actions.js";
import { IDLE } from "./snapshot.js";

const HANDLERS = ["onRecord", "onEnd", "onComplete", "onError", "onTokenExpiring"];

/** Adapts a source to `useSyncExternalStore`: the last snapshot of one component. */
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
 * Make the hooks. A component that renders with another run, stream or token gets the new snapshot
 * in that render, and never the previous one.
 *
 * @param {{useEffect: Function, useMemo: Function, useRef: Function, useSyncExternalStore: Function}} React
 */
export function createHooks({ useEffect, useMemo, useRef, useSyncExternalStore }) {
  function useSource(gateway, method, target, options) {
    const latest = useRef(options);
    useEffect(() => {
      latest.current = options;
    });
    // Handlers may be new functions in each render; those of the latest render are called.
    const key = JSON.stringify([method, target, options]);
    const store = useMemo(() => {
      const handlers = HANDLERS.filter((name) => options[name] !== undefined).map((name) => [
        name,
        (...values) => latest.current[name]?.(...values),
      ]);
      return new SourceStore(gateway[method](...target, { ...options, ...Object.fromEntries(handlers) }));
    }, [gateway, key]);
    return useSyncExternalStore(store.subscribe, store.getSnapshot, idle);
  }

  function useAction(make, dependencies) {
    const action = useMemo(make, dependencies);
    const store = useMemo(() => new SourceStore(action), [action]);
    const state = useSyncExternalStore(store.subscribe, store.getSnapshot, idleAction);
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
