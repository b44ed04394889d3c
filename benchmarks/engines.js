// Runs a model file with onnxruntime-web or onnxruntime-node: node engines.js FOLDER PACKAGE MODEL TILE SHAPE RUNS OUT
const fs = require("fs");
const [folder, name, model, tile, shape, runs, out] = process.argv.slice(2);
const ort = require(require.resolve(name, { paths: [folder] }));
const web = name === "onnxruntime-web";
if (web) ort.env.wasm.numThreads = 1;
const options = { executionProviders: [web ? "wasm" : "cpu"], intraOpNumThreads: 1, interOpNumThreads: 1 };

async function main() {
  const session = await ort.InferenceSession.create(fs.readFileSync(model), options);
  const bytes = fs.readFileSync(tile);
  const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  const input = new ort.Tensor("float32", values, JSON.parse(shape));
  const seconds = [];
  let found;
  for (let run = 0; run < Number(runs); run++) {
    const start = process.cpuUsage();
    found = await session.run({ tile: input });
    const used = process.cpuUsage(start);
    seconds.push((used.user + used.system) / 1e6);
  }
  const facts = {
    version: ort.env.versions[web ? "web" : "node"] ?? ort.env.versions.common,
    seconds,
    classes: Array.from(found.classes.data),
    probabilities: Array.from(found.probabilities.data),
  };
  fs.writeFileSync(out, JSON.stringify(facts));
}

main();
