// A React application in a DOM: prints what it shows at each change, and does what it is told.
import { createInterface } from "node:readline";
import { Window } from "happy-dom";

const window = new Window();
Object.assign(globalThis, { window, document: window.document });
const React = await import("react");
const { createRoot } = await import("react-dom/client");
const { connect, createHooks } = await import(process.argv[2]);

const hooks = createHooks(React);
const { useInputStream, useRealtimeRun, useRealtimeStream, useTaskTrigger } = hooks;
const gateway = connect({ url: process.env.GATEWAY, token: process.env.TOKEN });
const h = React.createElement;
const received = [];
let renders = 0;

function Stream({ run }) {
  renders++;
  const onRecord = (value) => received.push(value); // another function at each render
  const { data, status } = useRealtimeStream(gateway, run, "progress", { onRecord });
  return h("i", null, `${run}:${status}:${data.join(",")}`);
}

function Run({ run }) {
  return h("b", null, useRealtimeRun(gateway, run).run?.status);
}

let act = null;

function Ask({ run }) {
  const { send, ...sent } = useInputStream(gateway, run, "approval");
  const { trigger, ...triggered } = useTaskTrigger(gateway, "missing");
  act = { send, trigger };
  const state = ({ count, error }) => `${count}${error?.code ?? ""}`;
  return h("u", null, `${state(sent)}/${state(triggered)}`);
}

function App({ run, count, ask }) {
  const streams = Array.from({ length: count }, (_, key) => h(Stream, { key, run }));
  return h(React.StrictMode, null, streams, ask ? h(Ask, { run }) : h(Run, { run }));
}

const element = document.createElement("main");
const root = createRoot(element);
const show = () => console.log(JSON.stringify({ shown: element.textContent, received, renders }));
new window.MutationObserver(show).observe(element, {
  childList: true,
  characterData: true,
  subtree: true,
});
for await (const line of createInterface({ input: process.stdin })) {
  const { call, value, ...props } = JSON.parse(line);
  if (call) act[call](value);
  else root.render(h(App, props));
}
root.unmount();
process.exit();
