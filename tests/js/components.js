/** Components that call a hook, as React would drive them. */

import { Store, Observer, keyOf } from "../../ui/client/store.js";
import { FakePage, URL_OF_GATEWAY, subscribed } from "./fakes.js";

export const OPTIONS = { url: URL_OF_GATEWAY, runId: "run_a", stream: "progress", token: "t1" };

/** Stand in for one component that calls the hook. */
export class Component {
  renders = 0;

  constructor(store, options = {}) {
    this.store = store;
    this.render(options);
  }

  /** Render with these options, as React does it: effects run when the key has changed. */
  render(options) {
    const asked = { ...OPTIONS, ...options };
    const key = keyOf(asked);
    const hasNewKey = key !== this.observer?.key;
    if (hasNewKey) {
      this.unmount();
      this.observer = new Observer(this.store, key);
    }
    this.shown = this.observer.getSnapshot(); // what this very render shows
    this.observer.configure(asked);
    if (hasNewKey) this.leave = this.observer.subscribe(() => this.renders++);
  }

  unmount() {
    this.leave?.();
    this.leave = null;
  }

  get snapshot() {
    return this.observer.getSnapshot();
  }
}

export function livePage(options = {}) {
  const page = new FakePage();
  const store = new Store(page.platform);
  const component = new Component(store, options);
  page.socket.welcome();
  page.socket.taken();
  page.socket.receive(subscribed(1));
  return { page, store, component };
}
