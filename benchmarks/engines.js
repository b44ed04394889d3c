// Runs a model file with onnxruntime-web under node: node engines.js WEB_FOLDER MODEL TILE SHAPE RUNS OUT
const fs = require("fs");
const [folder, model, tile, shape, runs, out] = process.argv.slice(2);
const ort = require(require.resolve("onnxruntime-web", { paths: [folder] }));
ort.env.wasm.numThreads = 1;

async function main() {
  const session = await ort.InferenceSession.create(fs.readFileSync(model), { executionProviders: ["wasm"] });
  const bytes = fs.readFileSync(tile);
  const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  const input = new ort.Tensor("float32", values, JSON.parse(shape));
  const seconds = [];
  let found;
  for (let run = 0; run < Number(runs); run++) {
    const start = process.hrtime.bigint();
    found = await session.run({ tile: input });
    seconds.push(Number(process.hrtime.bigint() - start) / 1e9);
  }
  const facts = {
    version: ort.env.versions.web ?? ort.env.versions.common,
    seconds,
    classes: Array.from(found.classes.data),
    probabilities: Array.from(found.probabilities.data),
  };
  fs.writeFileSync(out, JSON.stringify(facts));
}

main();
