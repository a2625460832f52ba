"""Validates Kubernetes resources strictly against the API of several versions, and prints them as a JSON array.

    resources.py VERSION,VERSION… FILE…

Custom resources are printed only: `custom-resources.mjs` validates them.
"""

import json
import sys

import kubernetes_validate
import yaml

CUSTOM = ("monitoring.coreos.com/", "keda.sh/")


def main(versions, files):
    resources = []
    problems = []
    for name in files:
        with open(name, encoding="utf-8") as file:
            documents = [document for document in yaml.safe_load_all(file) if document]
        for document in documents:
            resources.append({"file": name, "resource": document})
            if document["apiVersion"].startswith(CUSTOM):
                continue
            for version in versions:
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    where = ".".join(str(step) for step in error.path)
                    problems.append(f"{name}: {document['kind']}, Kubernetes {version}: {where}: {error.message}")
    if problems:
        sys.exit("\n".join(problems))
    json.dump(resources, sys.stdout)


main(sys.argv[1].split(","), sys.argv[2:])
