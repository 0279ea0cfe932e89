// A page that embeds texts with Transformers.js; qguard/javascript/browser.py has the site that it belongs to.

import { open } from "./embed.mjs";
import { HEAD, answer, lengths } from "./frames.mjs";

const tasks = {
  hello: () => ({ versions: { browser: navigator.userAgent.match(/(\w*Chrome)\/(\d+)/)?.slice(1).join(" ") ?? navigator.userAgent } }),
  open: async ({ threads, ...given }) => {
    const transformers = await import("./npm/transformers.js");
    const { env } = transformers;
    env.localModelPath = new URL(".", location).pathname; // with a whole URL, 4.3.1 looks for no tokenizer
    const { wasm } = env.backends.onnx;
    // the same files as by default, which come from a content delivery network then
    for (const [kind, url] of Object.entries(wasm.wasmPaths)) {
      wasm.wasmPaths[kind] = new URL(`npm/${url.split("/").pop()}`, location).href;
    }
    if (threads) wasm.numThreads = threads;
    const { facts, tasks: more } = await open(transformers, given);
    Object.assign(tasks, more);
    return { ...facts, threads: wasm.numThreads ?? null, isolated: crossOriginIsolated };
  },
};

for (;;) {
  const response = await fetch("next");
  if (response.status === 204) continue;
  const request = new Uint8Array(await response.arrayBuffer());
  const [text, body] = lengths(request);
  const found = await answer(tasks, request.subarray(HEAD, HEAD + text), request.subarray(HEAD + text, HEAD + text + body));
  await fetch("answer", { method: "POST", body: found });
}
