// A worker that embeds texts with Transformers.js; qguard/encoders/javascript.py asks it.

import { createHash } from "node:crypto";
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

import { open } from "./embed.mjs";
import { load, resolve, serve } from "./protocol.mjs";

const NAME = "@huggingface/transformers";
const opened = []; // what sessions were made of: the path that Transformers.js gave to ONNX Runtime
// the very module that Transformers.js imports
const { InferenceSession } = createRequire(resolve(NAME))("onnxruntime-node");
const create = InferenceSession.create;
InferenceSession.create = function (file, ...rest) {
  opened.push(file);
  return create.call(this, file, ...rest);
};

const sha256 = (file) => createHash("sha256").update(typeof file === "string" ? fs.readFileSync(file) : file).digest("hex");

const tasks = {
  open: async ({ folder, ...given }) => {
    const transformers = await load(NAME);
    transformers.env.localModelPath = path.dirname(folder) + path.sep;
    const { facts, tasks: more } = await open(transformers, { model: path.basename(folder), ...given });
    Object.assign(tasks, more);
    return { ...facts, loaded: opened.map((file) => ({ name: path.basename(String(file)), sha256: sha256(file) })) };
  },
};
serve(tasks);
