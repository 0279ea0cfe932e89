// A worker of Node.js: requests on standard input, answers on standard output; qguard/javascript/worker.py starts it.

import { Console } from "node:console";
import path from "node:path";
import { pathToFileURL } from "node:url";

import { HEAD, answer, lengths } from "./frames.mjs";

// standard output belongs to the answers, whatever a package prints
globalThis.console = new Console(process.stderr, process.stderr);

/** The project's node_modules. */
export const modules = process.argv[2];

/** Where a package of the project's node_modules would be imported from, or, with from, one that this file of a package needs. */
export function resolve(name, from = pathToFileURL(path.join(path.dirname(modules), "worker.mjs"))) {
  return import.meta.resolve(name, from);
}

/** A package of the project's node_modules. */
export async function load(name) {
  return import(resolve(name));
}

/** Answer requests in turn until standard input ends, and then end the process; for handlers see answer. More may be added later. */
export function serve(handlers) {
  handlers.hello = () => ({ versions: process.versions });
  let chunks = [];
  let size = 0;
  let expected; // lengths of the request whose head has come
  let busy = false;

  const take = (n) => {
    const whole = Buffer.concat(chunks);
    chunks = [whole.subarray(n)];
    size -= n;
    return whole.subarray(0, n);
  };
  const go = async () => {
    while (!busy) {
      if (expected === undefined) {
        if (size < HEAD) return;
        expected = lengths(take(HEAD));
      }
      if (size < expected[0] + expected[1]) return;
      const [text, body] = expected.map(take);
      expected = undefined;
      busy = true;
      process.stdout.write(await answer(handlers, text, body));
      busy = false;
    }
  };
  process.stdin.on("data", (chunk) => {
    chunks.push(chunk);
    size += chunk.length;
    go();
  });
  process.stdin.on("end", () => process.exit(0)); // whoever asked is gone
}
