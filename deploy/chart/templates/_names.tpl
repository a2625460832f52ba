{{- define "connect.selector" -}}
app.kubernetes.io/name: sink-{{ .Values.connector }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "connect.labels" -}}
{{ include "connect.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "connect.metadata" -}}
name: {{ .Release.Name }}
namespace: {{ .Release.Namespace }}
labels: {{- include "connect.labels" . | nindent 2 }}
{{- end -}}

{{- define "connect.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $image.repository $image.digest }}
{{- else -}}
{{ printf "%s:%s" $image.repository ($image.tag | default .Chart.AppVersion) }}
{{- end -}}
{{- end -}}

{{- define "connect.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default .Release.Name }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{- /* The port of config.admin_listen. */ -}}
{{- define "connect.port" -}}
{{ .Values.config.admin_listen | default "0.0.0.0:9464" | splitList ":" | last }}
{{- end -}}

{{- /* The name under which offsets and the group are kept, and the label `connector` of the metrics. */ -}}
{{- define "connect.name" -}}
{{ .Values.config.name | default .Release.Name }}
{{- end -}}

{{- /*
The drain's deadline and ten seconds: for a last commit, leaving the group and the exit, so that the kubelet's SIGKILL never
comes first.
*/ -}}
{{- define "connect.gracePeriod" -}}
{{- $drain := .Values.config.drain_timeout | default "25s" -}}
{{- $number := regexFind "^[0-9]+" $drain | int -}}
{{- $seconds := dict "ms" (div (add $number 999) 1000) "s" $number "m" (mul $number 60) "h" (mul $number 3600) -}}
{{ add (get $seconds (regexFind "[a-z]+$" $drain)) 10 }}
{{- end -}}
