/**
 * React hooks over the store, and nothing else.
 */

import { useEffect, useMemo, useSyncExternalStore } from "react";

import { IDLE } from "./entry.js";
import { browserEnvironment } from "./environment.js";
import { gatewayUrl } from "./gateway_url.js";
import { Store, User, keyOf } from "./store.js";

let store = null;
const theStore = () => (store ??= new Store(browserEnvironment()));
const idle = () => IDLE;

/**
 * Follow a stream of a run.
 *
 * @param {Omit<import("./store.js").Options, "url"> & {gatewayUrl?: string|null}} options
 * @returns {import("./entry.js").Snapshot}
 */
export function useRealtimeStream(options) {
  const url = gatewayUrl(options.gatewayUrl ?? null);
  const asked = { ...options, url };
  const key = keyOf(asked);
  const user = useMemo(() => (url === null ? null : new User(theStore(), key)), [url, key]);
  // Above the subscription, so that it finds the options of this render.
  useEffect(() => user.configure(asked));
  return useSyncExternalStore(user?.subscribe ?? nothing, user?.getSnapshot ?? idle, idle);
}

const nothing = () => () => {};

/**
 * Follow a run: its status, metadata and output are in `run`.
 *
 * @param {Omit<import("./store.js").Options, "url"|"stream"> & {gatewayUrl?: string|null}} options
 * @returns {import("./entry.js").Snapshot}
 */
export const useRealtimeRun = (options) => useRealtimeStream({ ...options, stream: null });
