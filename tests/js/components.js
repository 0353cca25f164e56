/** Components that call a hook, driven as React drives them. */

import { Observer, Store, keyOf } from "../../ui/client/store.js";
import { FakePage, URL_OF_GATEWAY, subscribed } from "./fakes.js";

export const OPTIONS = { url: URL_OF_GATEWAY, runId: "run_a", stream: "progress", token: "t1" };

/** One component that calls the hook. */
export class Component {
  renders = 0;

  constructor(store, options = {}) {
    this.store = store;
    this.render(options);
  }

  /** Render with these options. As in React, effects run when the key has changed. */
  render(options) {
    const allOptions = { ...OPTIONS, ...options };
    const key = keyOf(allOptions);
    const hasNewKey = key !== this.observer?.key;
    if (hasNewKey) {
      this.unmount();
      this.observer = new Observer(this.store, key);
    }
    this.rendered = this.observer.getSnapshot(); // the content of this render
    this.observer.configure(allOptions);
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
