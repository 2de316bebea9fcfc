{{- define "vitruvian.name" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 50 | trimAll "-." -}}
{{- end -}}

{{- /* A Service's name begins with a letter and has no dot; those of releases may be others. */ -}}
{{- define "vitruvian.serverName" -}}
{{- $name := include "vitruvian.name" . -}}
{{- if not (regexMatch "^[a-z][-a-z0-9]*$" $name) -}}
{{- fail (printf "no Service can be called %s-server: set fullnameOverride to a name of letters, digits and -, which begins with a letter" $name) -}}
{{- end -}}
{{ $name }}-server
{{- end -}}

{{- define "vitruvian.labels" -}}
app.kubernetes.io/name: vitruvian
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "vitruvian.serverSelector" -}}
app.kubernetes.io/name: vitruvian
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "vitruvian.image" -}}
{{- $image := index .root.Values.images .role -}}
{{ $image.repository }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end -}}

{{- /* Whether health and metrics of this release's own servers have a port of their own: where the other asks for keys or
speaks TLS, kubelet and Prometheus need one that doesn't. */ -}}
{{- define "vitruvian.admin" -}}
{{- if or (include "vitruvian.access" .) (.Values.server.tls | default dict).secret -}}true{{- end -}}
{{- end -}}

{{- /* The Secret that says who may ask servers, with KServe, Ray Serve or neither; empty: everybody. */ -}}
{{- define "vitruvian.access" -}}
{{- (.Values.server.access | default dict).secret | default "" -}}
{{- end -}}

{{- define "vitruvian.scrape" -}}
{{- if .root.Values.monitoring.annotations }}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .port | quote }}
prometheus.io/path: /metrics
{{- end }}
{{- end -}}

{{- define "vitruvian.serverSecret" -}}
{{- .Values.s3.serverSecret | default .Values.s3.secret -}}
{{- end -}}

{{- /* Who made an object of the whole cluster, if not this release; empty: it is this release's to make. Helm looks
nothing up for `helm template` and the like. */ -}}
{{- define "vitruvian.madeElsewhere" -}}
{{- $api := .api | default "serving.kserve.io/v1alpha1" -}}
{{- if .root.Capabilities.APIVersions.Has (printf "%s/%s" $api .kind) -}}
{{- with lookup $api .kind "" (.name | default "vitruvian") -}}
{{- $marks := .metadata.annotations | default dict -}}
{{- $release := index $marks "meta.helm.sh/release-name" -}}
{{- $namespace := index $marks "meta.helm.sh/release-namespace" -}}
{{- if not $release -}}
no release
{{- else if not (and (eq $release $.root.Release.Name) (eq $namespace $.root.Release.Namespace)) -}}
release {{ $release }} in namespace {{ $namespace }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "vitruvian.crdElsewhere" -}}
{{- include "vitruvian.madeElsewhere" (dict "root" . "api" "apiextensions.k8s.io/v1" "kind" "CustomResourceDefinition" "name" "classifiers.vitruvian.dev") -}}
{{- end -}}

{{- /* What is asked from outside: all but /metrics, which says how much is asked and how the models answer. */ -}}
{{- define "vitruvian.publicPaths" -}}
- {path: /, type: Exact}
- {path: /card, type: Exact}
- {path: /compare, type: Exact}
- {path: /docs, type: Exact}
- {path: /evaluation, type: Exact}
- {path: /health, type: Exact}
- {path: /limits, type: Exact}
- {path: /openapi.json, type: Exact}
- {path: /page, type: Prefix}
- {path: /predict, type: Prefix}
- {path: /tracks, type: Exact}
- {path: /v1, type: Prefix}
- {path: /v2, type: Prefix}
{{- end -}}

{{- define "vitruvian.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "vitruvian.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- /* Environment variables of servers, each once: what a user sets takes the place of ours. Numbers are written as
people do, not as 2e+07. */ -}}
{{- define "vitruvian.serverEnv" -}}
{{- /* Two minutes or so without its store make no server begin anew. */ -}}
{{- $env := dict "HOME" "/home/vitruvian" "AWS_MAX_ATTEMPTS" "24" -}}
{{- range $name, $value := .Values.server.env -}}
{{- $_ := set $env $name (kindIs "string" $value | ternary $value (toJson $value)) -}}
{{- end -}}
{{- range $name, $value := $env }}
- {name: {{ $name | quote }}, value: {{ $value | quote }}}
{{- end }}
{{- if not (hasKey $env "VITRUVIAN_CPUS") }}
# Threads for the CPUs that are reserved, not for all of a large node.
- name: VITRUVIAN_CPUS
  valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: "1"}}
{{- end }}
{{- end -}}

{{- /* What a server's container has in common under KServe and without it: `port` is where probes ask, `ports` are all
by name. */ -}}
{{- define "vitruvian.serverContainer" -}}
{{- $server := .root.Values.server -}}
image: {{ include "vitruvian.image" (dict "root" .root "role" "server") | quote }}
imagePullPolicy: {{ .root.Values.images.server.pullPolicy | quote }}
env:
{{- include "vitruvian.serverEnv" .root }}
ports:
{{- /* KServe's Service leads to the first. */}}
- {name: http, containerPort: {{ .ports.http }}, protocol: TCP}
{{- range $name, $port := omit .ports "http" }}
- {name: {{ $name }}, containerPort: {{ $port }}, protocol: TCP}
{{- end }}
startupProbe:
  httpGet: {path: /v2/health/ready, port: {{ .port }}}
  periodSeconds: 1
  failureThreshold: {{ $server.startupSeconds }}
readinessProbe:
  httpGet: {path: /v2/health/ready, port: {{ .port }}}
  periodSeconds: 2
  timeoutSeconds: 3
  failureThreshold: 3
livenessProbe:
  httpGet: {path: /v2/health/live, port: {{ .port }}}
  periodSeconds: 10
  timeoutSeconds: 5
{{- with $server.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "vitruvian.containerSecurity" .root | nindent 2 }}
volumeMounts:
- {name: tmp, mountPath: /tmp}
- {name: home, mountPath: /home/vitruvian}
{{- if include "vitruvian.access" .root }}
- {name: access, mountPath: /etc/vitruvian/access, readOnly: true}
{{- end }}
{{- end -}}

{{- define "vitruvian.serverVolumes" -}}
- {name: tmp, emptyDir: {}}
- {name: home, emptyDir: {}}
{{- with include "vitruvian.access" . }}
# For all to read: a ServingRuntime can't say which group its pods' files belong to.
- {name: access, secret: {secretName: {{ . | quote }}, defaultMode: 0444}}
{{- end }}
{{- end -}}

{{- define "vitruvian.placement" -}}
{{- with .pod.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
- name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{- /* Ends with one clear line where a cluster doesn't know the kind of an object that is to be made. Without a cluster
(`helm template`, `helm lint`) Helm knows of no kinds at all, only of versions, and nothing is refused. */ -}}
{{- define "vitruvian.needs" -}}
{{- $versions := .root.Capabilities.APIVersions -}}
{{- if and ($versions.Has "v1/ConfigMap") (not ($versions.Has .kind)) -}}
{{- fail (printf "the cluster has no %s, which %s needs: install %s, or set it to false" .kind .value .from) -}}
{{- end -}}
{{- end -}}
