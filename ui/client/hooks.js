/**
 * React hooks over the store, for pages of Reflex.
 */

import { useCallback, useEffect, useMemo, useSyncExternalStore } from "react";

import { Actions, IDLE_ACTION, trigger } from "./actions.js";
import { browserPlatform } from "./platform.js";
import { gatewayUrl } from "./gateway_url.js";
import { IDLE_STREAMS, RunStreams, listKeyOf } from "./run_streams.js";
import { IDLE } from "./snapshot.js";
import { Observer, Store, keyOf } from "./store.js";

const actions = new Actions();
let store = null;
const remedy =
  "The app's module has to call add_gateway(app); a gateway elsewhere is named by gateway_url.";
const sharedStore = () => (store ??= new Store({ ...browserPlatform(), remedy }));
const idle = () => IDLE;
const idleStreams = () => IDLE_STREAMS;

/**
 * Subscribe to a stream of a run.
 *
 * @param {Omit<import("./store.js").Options, "url"> & {gatewayUrl?: string|null}} options
 * @returns {import("./snapshot.js").Snapshot}
 */
export function useRealtimeStream(options) {
  const url = gatewayUrl(options.gatewayUrl ?? null);
  const request = { ...options, url };
  const key = keyOf(request);
  const make = () => (url === null ? null : new Observer(sharedStore(), key));
  const observer = useMemo(make, [url, key]);
  // Effects run in order: the options are set before `useSyncExternalStore` subscribes.
  useEffect(() => observer.configure(request));
  return useSyncExternalStore(observer?.subscribe ?? never, observer?.getSnapshot ?? idle, idle);
}

// In server-side rendering, which has no URL, a hook never changes.
const never = () => () => {};

/**
 * Subscribe to a run: `run` has its status, metadata and output.
 *
 * @param {Omit<import("./store.js").Options, "url"|"stream"> & {gatewayUrl?: string|null}} options
 * @returns {import("./snapshot.js").Snapshot}
 */
export const useRealtimeRun = (options) => useRealtimeStream({ ...options, stream: null });

/**
 * Subscribe to a set of runs: `runs` has them, newest first.
 *
 * @param {Omit<import("./store.js").Options, "url"> & {gatewayUrl?: string|null}} options
 * @returns {import("./snapshot.js").Snapshot}
 */
export const useRealtimeRuns = (options) => useRealtimeStream({ ...options, stream: null });

/**
 * Subscribe to all streams of a run: `streams` has them by id. Each appears with its first record.
 *
 * @param {Omit<import("./store.js").Options, "url"|"stream"> & {gatewayUrl?: string|null}} options
 */
export function useRealtimeStreams(options) {
  const url = gatewayUrl(options.gatewayUrl ?? null);
  const request = { ...options, url };
  const key = listKeyOf(request);
  const make = () => (url === null ? null : new RunStreams(sharedStore(), key));
  const streams = useMemo(make, [url, key]);
  useEffect(() => streams.configure(request));
  const { subscribe = never, getSnapshot = idleStreams } = streams ?? {};
  return useSyncExternalStore(subscribe, getSnapshot, idleStreams);
}

const idleAction = () => IDLE_ACTION;

function useAction(key) {
  const subscribe = useCallback((listener) => actions.subscribe(key, listener), [key]);
  const state = useCallback(() => actions.stateOf(key), [key]);
  return useSyncExternalStore(subscribe, state, idleAction);
}

/**
 * Send values to an input of a run.
 *
 * @param {{runId: string|null, stream: string, token?: string|null, gatewayUrl?: string|null}} options
 */
export function useInputStream({ runId, stream, token = null, gatewayUrl: base = null }) {
  const url = gatewayUrl(base);
  const key = JSON.stringify(["input", url, runId, stream]);
  const state = useAction(key);
  const send = (value) => {
    const append = async () => {
      if (!runId) throw new Error("there is no run to send to yet");
      await sharedStore().append({ url, run: runId, stream, value, token });
    };
    return actions.run(key, append, JSON.stringify(value));
  };
  return { ...state, send };
}

/**
 * Trigger a task from the page.
 *
 * @param {{task: string, token: string|null, handlerKey: string, gatewayUrl?: string|null}} options
 */
export function useTaskTrigger({ task, token, handlerKey, gatewayUrl: base = null }) {
  const url = gatewayUrl(base);
  const key = JSON.stringify(["trigger", url, task, handlerKey]);
  const state = useAction(key);
  const start = (payload) => {
    const work = async () => {
      if (!token) throw new Error("there is no token to trigger with yet");
      return trigger(fetch, url, { task, token, payload });
    };
    return actions.run(key, work, JSON.stringify(payload));
  };
  return { ...state, trigger: start };
}
