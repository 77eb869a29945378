"""The documents of the test vectors, and what an injection makes of them."""

from typing import Any

import yaml

from agent.injection import documents
from agent.injection.options import InjectionOptions

DEPLOYMENT = """\
# of the shop
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web # its name
  namespace: shop
spec:
  template:
    metadata:
      labels:
        app: web
    spec:
      # the application
      containers:
        - name: web   # first
          image: web:1
          ports:
            - name: http
              containerPort: 8080
          readinessProbe:
            # asked by the kubelet
            httpGet: # over http
              path: /ready # the page
              # in between
              port: http # by name
            periodSeconds: 3
          livenessProbe:
            # before
            tcpSocket: # a connection
              # inside
              port: 9090 # by number
            # after
            failureThreshold: 2
          startupProbe:
            exec: {command: [cat, /ready]} # not rewritten
        # between items
        - name: log
          image: "log:1" # quoted
        # the last line
"""

CRON_JOB = """\
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  schedule: "0 3 * * *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers:
          - name: nightly
            image: nightly
            args:
            - --all
"""

LIST = """\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: db}
- apiVersion: apps/v1
  kind: StatefulSet
  metadata: {name: db}
  spec:
    template:
      spec:
        containers:
        - {name: db, image: db}
- apiVersion: v1
  kind: List
  items:
  - kind: ConfigMap # nothing to run
    apiVersion: v1
"""

SEVERAL = """\
# only a comment
---
--- # note
apiVersion: argoproj.io/v1alpha1
kind: Rollout
spec: {template: {spec: {containers: [{name: a}]}}}
---
# empty
...
%YAML 1.1
---
apiVersion: v1
kind: Pod
metadata:
  name: p
spec:
  containers:
  - name: a
    image: b
---

"""

POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: p
spec:
  containers:
  - name: a
    image: b
"""

ISTIO = """\
apiVersion: v1
kind: Pod
metadata:
  name: p
  annotations:
    prometheus.io/port: "15020"
    prometheus.io/scrape: "true"
    sidecar.istio.io/status: '{"initContainers":["istio-init","istio-proxy"],"containers":null,"volumes":["workload-socket"],"imagePullSecrets":null,"revision":"default"}'
spec:
  initContainers:
  - name: istio-init
    image: istio/proxyv2:1.31.0
  - name: istio-proxy
    image: istio/proxyv2:1.31.0
    restartPolicy: Always
    env:
    - name: ISTIO_PROMETHEUS_ANNOTATIONS
      value: '{"scrape":"true","port":"8080"}'
    - name: ISTIO_KUBE_APP_PROBERS
      value: '{"/app-health/a/livez":{"tcpSocket":{"port":80}}}'
  containers:
  - name: a
    image: b
    livenessProbe:
      httpGet:
        path: /app-health/a/livez
        port: 15020
  volumes:
  - name: workload-socket
    emptyDir: {}
"""  # noqa: E501  # as Istio writes it


def inject(text: str, options: InjectionOptions | None = None) -> str:
    """Return the text with its sidecar."""
    return documents.inject(text, "app.yaml", options or InjectionOptions()).text


def uninject(text: str) -> str:
    """Return the text without its sidecar."""
    return documents.uninject(text, "app.yaml").text


def notes(text: str, options: InjectionOptions | None = None) -> list[str]:
    """Return the messages about an injection."""
    return documents.inject(text, "app.yaml", options or InjectionOptions()).notes


def pod(text: str) -> dict[str, Any]:
    """Return the specification of the pods of the only object."""
    tree = yaml.safe_load(text)
    for key in {"Pod": ["spec"], "CronJob": ["spec", "jobTemplate", "spec", "template", "spec"]}.get(
        tree["kind"], ["spec", "template", "spec"]
    ):
        tree = tree[key]
    return tree  # type: ignore[no-any-return]  # YAML


def container(text: str, name: str) -> dict[str, Any]:
    """Return a container of the only object."""
    spec = pod(text)
    (found,) = (each for each in [*spec.get("initContainers", []), *spec["containers"]] if each["name"] == name)
    return found  # type: ignore[no-any-return]  # YAML


def variable(text: str, name: str) -> Any:  # noqa: ANN401  # YAML
    """Return the value of a variable of the sidecar."""
    (found,) = (each["value"] for each in container(text, "istio-proxy")["env"] if each["name"] == name)
    return found
