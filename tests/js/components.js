/** Components that call a hook, as React would drive them. */

import { Store, User, keyOf } from "../../ui/client/store.js";
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
    const hasNewKey = key !== this.user?.key;
    if (hasNewKey) {
      this.unmount();
      this.user = new User(this.store, key);
    }
    this.shown = this.user.getSnapshot(); // what this very render shows
    this.user.configure(asked);
    if (hasNewKey) this.leave = this.user.subscribe(() => this.renders++);
  }

  unmount() {
    this.leave?.();
    this.leave = null;
  }

  get snapshot() {
    return this.user.getSnapshot();
  }
}

export function livePage(options = {}) {
  const page = new FakePage();
  const store = new Store(page.environment);
  const component = new Component(store, options);
  page.socket.welcome();
  page.socket.taken();
  page.socket.receive(subscribed(1));
  return { page, store, component };
}
