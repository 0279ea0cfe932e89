// Frames of a worker, in Node.js and in browsers; qguard/javascript/frames.py has the other side and describes them.

const MAGIC = [...new TextEncoder().encode("QGW1")];
export const HEAD = 12;
const LARGEST = 2 ** 28;
const ARRAYS = {
  float32: Float32Array, float64: Float64Array, int32: Int32Array, int64: BigInt64Array, uint8: Uint8Array,
};

/** The lengths of a frame's JSON object and of the bytes behind it, by its first HEAD bytes. */
export function lengths(head) {
  const view = new DataView(head.buffer, head.byteOffset, HEAD);
  const found = [view.getUint32(4, true), view.getUint32(8, true)];
  if (MAGIC.some((c, i) => head[i] !== c) || found[0] + found[1] > LARGEST) throw new Error("no request");
  return found;
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

/** The bytes of a frame. */
function packed(header, arrays) {
  const told = [];
  const parts = [];
  for (const [name, { data, shape }] of Object.entries(arrays)) {
    const dtype = Object.keys(ARRAYS).find((k) => data instanceof ARRAYS[k]);
    if (dtype === undefined) throw new TypeError(`array ${name}: ${data?.constructor?.name} is none that a frame holds`);
    told.push({ name, dtype, shape });
    parts.push(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  const text = new TextEncoder().encode(JSON.stringify({ ...header, arrays: told }));
  const size = parts.reduce((a, p) => a + p.length, 0);
  if (text.length + size > LARGEST) throw new RangeError(`an answer of ${text.length + size} bytes; ${LARGEST} at most`);
  const whole = new Uint8Array(HEAD + text.length + size);
  const view = new DataView(whole.buffer);
  whole.set(MAGIC);
  view.setUint32(4, text.length, true);
  view.setUint32(8, size, true);
  let at = HEAD;
  for (const part of [text, ...parts]) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/**
 * The frame that answers a request.
 * @param handlers task → async (values, arrays) => ({ arrays: { name: { data, shape } }, ...values })
 */
export async function answer(handlers, text, body) {
  const { id, task, values, arrays: told } = JSON.parse(new TextDecoder().decode(text));
  try {
    if (!Object.hasOwn(handlers, task)) throw new Error(`no task ${task}`);
    const { arrays = {}, ...rest } = (await handlers[task](values, arraysOf(told, body))) ?? {};
    return packed({ id, values: rest }, arrays);
  } catch (error) {
    return packed({ id, error: `${error?.name ?? "Error"}: ${error?.message ?? error}` }, {});
  }
}
