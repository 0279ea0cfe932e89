// What a user of Transformers.js writes to embed texts, in Node.js and in browsers.

/**
 * A tokenizer whose texts end with their closing token, such as [SEP], also where they are cut: Transformers.js 4.3.1 cuts it off
 * with the rest. Its outputs are then those of Python's tokenizers.
 */
export function closed(tokenizer) {
  const [closing] = tokenizer("", { return_tensor: false }).input_ids.slice(-1);
  return Object.assign((texts, options) => {
    const inputs = tokenizer(texts, options);
    if (closing === undefined) return inputs;
    if (options.return_tensor === false) {
      if (inputs.input_ids.length === tokenizer.model_max_length) inputs.input_ids.splice(-1, 1, closing);
      return inputs;
    }
    const [rows, length] = inputs.input_ids.dims;
    for (let end = length - 1; length === tokenizer.model_max_length && end < rows * length; end += length) {
      if (inputs.attention_mask.data[end]) inputs.input_ids.data[end] = BigInt(closing);
    }
    return inputs;
  }, { model_max_length: tokenizer.model_max_length });
}

/**
 * @param transformers the module @huggingface/transformers
 * @param model the folder below env.localModelPath
 * @param options of pipeline(): dtype, model_file_name, use_external_data_format, session_options
 * @param how pooling and normalize as the pipeline takes them; output, the name of an output that holds finished vectors, which the
 *   pipeline does not read; dims, the first values of a vector that are kept; close, see closed
 */
export async function open(transformers, { model, options, how }) {
  const { env, pipeline } = transformers;
  env.allowRemoteModels = false; // what is judged lies here
  env.allowLocalModels = true;
  env.useFSCache = env.useBrowserCache = env.useWasmCache = false;
  const extractor = await pipeline("feature-extraction", model, options);
  if (how.close) extractor.tokenizer = closed(extractor.tokenizer);

  const embed = async (texts) => {
    const { pooling, normalize, output, dims } = how;
    let found;
    if (output) {
      const outputs = await extractor.model(extractor.tokenizer(texts, { padding: true, truncation: true }));
      found = outputs[output];
      if (normalize) found = found.normalize(2, -1);
    } else {
      found = await extractor(texts, { pooling, normalize });
    }
    return dims ? found.slice(null, [0, dims]) : found;
  };

  const session = extractor.model.sessions.model;
  const facts = {
    sessions: Object.keys(extractor.model.sessions),
    dtype: session.config?.dtype,
    device: session.config?.device,
    longest: extractor.tokenizer.model_max_length ?? null,
    versions: { "Transformers.js": env.version },
  };
  const { common, ...runtimes } = env.backends.onnx.versions; // onnxruntime-node or onnxruntime-web
  for (const [name, version] of Object.entries(runtimes)) facts.versions[`onnxruntime-${name}`] = version;
  const tasks = {
    /** Finished vectors (texts, dim) of one batch. */
    embed: async ({ texts }) => {
      const { data, dims, type } = await embed(texts);
      if (!(data instanceof Float32Array)) throw new TypeError(`vectors of type ${type}, which are no 32-bit floats here`);
      return { arrays: { vectors: { data, shape: dims } } };
    },
    /** Token ids of each text, one behind the other, and their number, as the pipeline makes them, without padding. */
    tokens: ({ texts }) => {
      const every = texts.map((text) => extractor.tokenizer(text, { truncation: true, return_tensor: false }).input_ids);
      const lengths = Int32Array.from(every, (ids) => ids.length);
      const ids = Int32Array.from(every.flat());
      return { arrays: { ids: { data: ids, shape: [ids.length] }, lengths: { data: lengths, shape: [lengths.length] } } };
    },
    /** Milliseconds of each run: of the texts, or of the model alone on their token ids. */
    time: async ({ texts, runs, discard, alone }) => {
      const inputs = extractor.tokenizer(texts, { padding: true, truncation: true });
      const took = new Float64Array(runs);
      for (let i = -discard; i < runs; ++i) {
        const start = performance.now();
        await (alone ? extractor.model(inputs) : embed(texts));
        if (i >= 0) took[i] = performance.now() - start;
      }
      return { arrays: { took: { data: took, shape: [runs] } } };
    },
  };
  return { facts, tasks };
}
