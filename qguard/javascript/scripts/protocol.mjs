// Requests and answers of a worker; qguard/javascript/worker.py has the other side and describes the frames.

import { Console } from "node:console";
import path from "node:path";
import { pathToFileURL } from "node:url";

const MAGIC = "QGW1";
const HEAD = 12;
const LARGEST = 2 ** 28;
const ARRAYS = {
  float32: Float32Array, float64: Float64Array, int32: Int32Array, int64: BigInt64Array, uint8: Uint8Array,
};

// standard output belongs to the answers, whatever a package prints
globalThis.console = new Console(process.stderr, process.stderr);

export const modules = process.argv[2];

/** A package of the project's node_modules. */
export async function load(name) {
  return import(import.meta.resolve(name, pathToFileURL(path.join(path.dirname(modules), "worker.mjs"))));
}

function arraysOf(told, body) {
  const found = {};
  let at = 0;
  for (const { name, dtype, shape } of told) {
    const kind = ARRAYS[dtype];
    const length = shape.reduce((a, b) => a * b, 1) * kind.BYTES_PER_ELEMENT;
    // a copy of its own, since a typed array starts at a multiple of its element's size
    found[name] = { shape, data: new kind(Uint8Array.from(body.subarray(at, at + length)).buffer) };
    at += length;
  }
  return found;
}

function frame(header, arrays) {
  const told = [];
  const parts = [];
  for (const [name, { data, shape }] of Object.entries(arrays)) {
    const dtype = Object.keys(ARRAYS).find((k) => data instanceof ARRAYS[k]);
    if (dtype === undefined) throw new TypeError(`array ${name}: ${data?.constructor?.name} is none that a frame holds`);
    told.push({ name, dtype, shape });
    parts.push(Buffer.from(data.buffer, data.byteOffset, data.byteLength));
  }
  const text = Buffer.from(JSON.stringify({ ...header, arrays: told }));
  const size = parts.reduce((a, p) => a + p.length, 0);
  if (text.length + size > LARGEST) throw new RangeError(`an answer of ${text.length + size} bytes; ${LARGEST} at most`);
  const head = Buffer.alloc(HEAD);
  head.write(MAGIC, "latin1");
  head.writeUInt32LE(text.length, 4);
  head.writeUInt32LE(size, 8);
  return Buffer.concat([head, text, ...parts]);
}

async function answer(handlers, header, body) {
  const { id, task, values } = header;
  try {
    if (!Object.hasOwn(handlers, task)) throw new Error(`no task ${task}`);
    const { arrays = {}, ...rest } = (await handlers[task](values, arraysOf(header.arrays, body))) ?? {};
    return frame({ id, values: rest }, arrays);
  } catch (error) {
    return frame({ id, error: `${error?.name ?? "Error"}: ${error?.message ?? error}` }, {});
  }
}

/**
 * Answer requests in turn until standard input ends, and then end the process.
 * @param handlers task → async (values, arrays) => ({ arrays: { name: { data, shape } }, ...values })
 */
export function serve(handlers) {
  const all = { hello: () => ({ versions: process.versions }), ...handlers };
  let chunks = [];
  let size = 0;
  let lengths; // of the request whose head has come
  let busy = false;

  const take = (n) => {
    const whole = Buffer.concat(chunks);
    chunks = [whole.subarray(n)];
    size -= n;
    return whole.subarray(0, n);
  };
  const go = async () => {
    while (!busy) {
      if (lengths === undefined) {
        if (size < HEAD) return;
        const head = take(HEAD);
        lengths = [head.readUInt32LE(4), head.readUInt32LE(8)];
        if (head.toString("latin1", 0, 4) !== MAGIC || lengths[0] + lengths[1] > LARGEST) throw new Error("no request");
      }
      if (size < lengths[0] + lengths[1]) return;
      const header = JSON.parse(take(lengths[0]).toString());
      const body = take(lengths[1]);
      lengths = undefined;
      busy = true;
      process.stdout.write(await answer(all, header, body));
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
