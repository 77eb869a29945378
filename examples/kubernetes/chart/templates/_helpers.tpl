{{/* The name of the chart, as a DNS label. */}}
{{- define "proxy-agent.name" -}}
{{- default .Chart.Name .Values.nameOverride | replace "." "-" | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/*
The name of the objects. A service's name is a DNS label that begins with a letter, while a release's may contain dots and
begin with a digit.
*/}}
{{- define "proxy-agent.fullname" -}}
{{- $name := include "proxy-agent.name" . -}}
{{- $full := printf "%s-%s" .Release.Name $name -}}
{{- if contains $name .Release.Name -}}{{- $full = .Release.Name -}}{{- end -}}
{{- if .Values.fullnameOverride -}}{{- $full = .Values.fullnameOverride -}}{{- end -}}
{{- $full = $full | replace "." "-" -}}
{{- if not (regexMatch "^[a-z]" $full) -}}{{- $full = printf "p-%s" $full -}}{{- end -}}
{{- $full | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* A name of at most 63 characters with a suffix: list CONTEXT SUFFIX. A long name ends with a digest, to be unique. */}}
{{- define "proxy-agent.suffixed" -}}
{{- $name := printf "%s-%s" (include "proxy-agent.fullname" (first .)) (last .) -}}
{{- if gt (len $name) 63 -}}
{{- printf "%s-%s" ($name | trunc 54 | trimSuffix "-" | trimSuffix ".") ($name | sha256sum | trunc 8) -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end -}}

{{/* The secret of a certificate: list CONTEXT CERTIFICATE. */}}
{{- define "proxy-agent.secret" -}}
{{- $certificate := last . -}}
{{- if $certificate.secretName -}}
{{- $certificate.secretName -}}
{{- else -}}
{{- include "proxy-agent.suffixed" (list (first .) $certificate.name) -}}
{{- end -}}
{{- end -}}

{{/* A value as a string: `toString` writes a number of seven digits in a values file as 1.234567e+06. */}}
{{- define "proxy-agent.string" -}}
{{- if kindIs "string" . }}{{ . }}{{ else }}{{ toJson . }}{{ end -}}
{{- end -}}

{{/* A dictionary with values as strings, as labels and annotations must be. */}}
{{- define "proxy-agent.strings" -}}
{{- $lines := list -}}
{{- range $name, $value := . -}}
{{- $lines = append $lines (printf "%s: %s" (quote $name) (include "proxy-agent.string" $value | quote)) -}}
{{- end -}}
{{- join "\n" $lines -}}
{{- end -}}

{{- define "proxy-agent.selector" -}}
app.kubernetes.io/name: {{ include "proxy-agent.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* Labels without those that the chart sets itself: dictionaries, of which the first has precedence. */}}
{{- define "proxy-agent.own" -}}
{{- $own := dict -}}
{{- range . }}{{ $own = merge $own . }}{{ end -}}
{{- include "proxy-agent.strings" (omit $own "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "helm.sh/chart") -}}
{{- end -}}

{{- define "proxy-agent.labels" -}}
{{ include "proxy-agent.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
{{- with include "proxy-agent.own" (list .Values.labels) }}
{{ . }}
{{- end }}
{{- end -}}

{{- define "proxy-agent.account" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "proxy-agent.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "proxy-agent.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* The agent as a list of one container, native sidecar or not. */}}
{{- define "proxy-agent.container" -}}
- name: agent
  image: {{ include "proxy-agent.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  {{- if .Values.containers }}
  restartPolicy: Always
  {{- end }}
  args:
    # Without --certs, each certificate file that the bootstrap names is watched.
    - --config=/etc/envoy/envoy.yaml
    - --status-port={{ .Values.agent.statusPort | int }}
    {{- if .Values.agent.kubernetesEvents }}
    - --kubernetes-events
    {{- end }}
    - --drain-delay={{ .Values.agent.drainDelaySeconds | int }}s
    - --stop-deadline={{ .Values.agent.stopDeadlineSeconds | int }}s
    {{- range .Values.agent.args }}
    - {{ include "proxy-agent.string" . | quote }}
    {{- end }}
    {{- with .Values.proxyArgs }}
    - --
    {{- range . }}
    - {{ include "proxy-agent.string" . | quote }}
    {{- end }}
    {{- end }}
  env:
    # Read by the agent, and by the commands that the kubelet executes.
    - name: AGENT_RUN_DIR
      value: /run/proxy-agent/0
    {{- with .Values.agent.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    {{- range .Values.ports }}
    - name: {{ .name | quote }}
      containerPort: {{ .containerPort | int }}
      protocol: {{ .protocol | default "TCP" }}
    {{- end }}
    - name: status
      containerPort: {{ .Values.agent.statusPort | int }}
  # Until the proxy serves, `kubectl describe` shows the output of this command: the reason, with the refused file.
  startupProbe:
    exec:
      command: [agent, wait, --timeout=1s]
    timeoutSeconds: 5
    periodSeconds: 2
    failureThreshold: 60
  readinessProbe:
    httpGet: {path: /healthz/ready, port: status}
    periodSeconds: 2
    failureThreshold: 1
  livenessProbe:
    httpGet: {path: /healthz/live, port: status}
    periodSeconds: 10
    timeoutSeconds: 5
  {{- if .Values.containers }}
  # The kubelet executes the preStop hooks of all containers at once; the SIGTERM follows when the others have exited.
  lifecycle:
    preStop:
      exec:
        command: [agent, drain]
  {{- end }}
  {{- with .Values.securityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    # Directories: a file that is mounted with subPath never changes.
    - name: config
      mountPath: /etc/envoy
      readOnly: true
    {{- range $index, $each := .Values.certificates }}
    - name: certificate-{{ $index }}
      mountPath: {{ printf "/etc/certs/%s" $each.name | quote }}
      readOnly: true
    {{- end }}
    - name: run
      mountPath: /run/proxy-agent
    {{- with .Values.volumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
