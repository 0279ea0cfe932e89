// A worker that embeds token ids with llama.cpp, through node-llama-cpp; qguard/encoders/llamacpp.py asks it.

import { load, serve } from "./protocol.mjs";

let llama;
let model;
let options;
let lanes = []; // contexts that compute side by side, each one text at a time
let size = 0; // tokens that a context holds

/** Contexts that hold texts of so many tokens. */
async function ensure(length) {
  if (length < size) return;
  for (const lane of lanes) await lane.dispose();
  lanes = [];
  // a text must be shorter than its context, also one that fills all positions of the model
  size = Math.min(Math.max(512, 2 * length), model.trainContextSize) + 1;
  for (let i = 0; i < options.lanes; ++i) {
    lanes.push(await model.createEmbeddingContext({ contextSize: size, threads: options.threads }));
  }
}

/** The rows of ids that lie one behind the other. */
function rowsOf({ ids, lengths }) {
  const rows = [];
  let at = 0;
  for (const length of lengths.data) rows.push(Array.from(ids.data.subarray(at, (at += length))));
  return rows;
}

async function embed(rows) {
  const longest = rows.reduce((most, row) => Math.max(most, row.length), 0);
  if (longest > model.trainContextSize) {
    throw new RangeError(`a text of ${longest} tokens, and the file has positions for ${model.trainContextSize}`);
  }
  await ensure(longest);
  const width = model.embeddingVectorSize;
  const vectors = new Float32Array(rows.length * width);
  let next = 0;
  const work = async (lane) => {
    while (next < rows.length) {
      const i = next++;
      if (lane.calculateInputLength(rows[i]) !== rows[i].length) {
        throw new RangeError("node-llama-cpp would put the file's own special tokens around these token ids");
      }
      const { vector } = await lane.getEmbeddingFor(rows[i]);
      if (vector.length !== width) throw new RangeError(`a vector of ${vector.length} values; expected ${width}`);
      vectors.set(vector, i * width);
    }
  };
  await Promise.all(lanes.map(work));
  return { data: vectors, shape: [rows.length, width] };
}

serve({
  open: async ({ file, lanes, threads }) => {
    const { getLlama, LlamaLogLevel } = await load("node-llama-cpp");
    const quiet = { logLevel: LlamaLogLevel.error, progressLogs: false };
    llama = await getLlama({ gpu: false, build: "never", skipDownload: true, ...quiet });
    model = await llama.loadModel({ modelPath: file, gpuLayers: 0 });
    options = { lanes, threads };
    return { width: model.embeddingVectorSize, positions: model.trainContextSize, release: llama.llamaCppRelease?.release ?? "" };
  },

  /** Vectors (texts, width) of token ids, and how long that took: wall-clock time, and that of all threads. */
  embed: async (_, arrays) => {
    const rows = rowsOf(arrays);
    const [wall, cpu] = [process.hrtime.bigint(), process.cpuUsage()];
    const vectors = await embed(rows);
    const { user, system } = process.cpuUsage(cpu);
    return { wall: Number(process.hrtime.bigint() - wall), cpu: 1000 * (user + system), arrays: { vectors } };
  },

  memory: () => ({ peak: 1024 * process.resourceUsage().maxRSS }),

  /** Token ids of texts by the file's own tokenizer, without tokens around them; the names of special tokens are text. */
  tokens: ({ texts }) => {
    const every = texts.map((text) => model.tokenize(text, false));
    const lengths = Int32Array.from(every, (ids) => ids.length);
    const ids = Int32Array.from(every.flat());
    return { arrays: { ids: { data: ids, shape: [ids.length] }, lengths: { data: lengths, shape: [lengths.length] } } };
  },
});
