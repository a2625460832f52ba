// Validates custom resources: node custom-resources.mjs NODE_MODULES < array of {file, resource}

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const packages = {
  "monitoring.coreos.com": "@kubernetes-models/prometheus-operator",
  "keda.sh": "@kubernetes-models/keda",
};
const modules = process.argv[2];
const problems = [];
let validated = 0;
for (const { file, resource } of JSON.parse(readFileSync(0, "utf8"))) {
  const [group, version] = resource.apiVersion.split("/");
  const name = packages[group];
  if (!name) continue;
  const path = join(modules, name, group, version, `${resource.kind}.js`);
  const { [resource.kind]: Model } = await import(pathToFileURL(path));
  try {
    new Model(resource).validate();
    validated += 1;
  } catch (error) {
    problems.push(`${file}: ${resource.kind}: ${error.message}`);
  }
}
if (problems.length > 0) {
  console.error(problems.join("\n"));
  process.exit(1);
}
console.log(validated);
