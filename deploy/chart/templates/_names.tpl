{{- define "connect.selector" -}}
app.kubernetes.io/name: sink-{{ .Values.connector }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- /* The check's pod: neither the disruption budget nor the monitor means it. */ -}}
{{- define "connect.checkSelector" -}}
app.kubernetes.io/name: sink-{{ .Values.connector }}-check
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

{{- /* The name under which offsets and the group are kept. */ -}}
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

{{- /* A size of ours (`24MiB`, `1 GB`) or of Kubernetes' (`128Mi`, `1G`) in bytes. */ -}}
{{- define "connect.bytes" -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 -}}
{{- $_ := merge $units (dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776) -}}
{{- $unit := regexFind "[kKMGT]i?" . -}}
{{- mulf (regexFind "^[0-9.]+" . | float64) (get $units (ternary "k" $unit (eq $unit "K"))) | int64 -}}
{{- end -}}

{{- /*
What no schema can say, because it concerns two values at once.
*/ -}}
{{- define "connect.check" -}}
{{- $memory := .Values.config.memory | default "24MiB" -}}
{{- $limit := include "connect.text" ((.Values.resources.limits | default dict).memory | default "") -}}
{{- if and $limit (lt (include "connect.bytes" $limit | int64) (add (include "connect.bytes" $memory | int64) 41943040)) -}}
{{- fail (printf "resources.limits.memory: %s is too little for config.memory (%s, what is in flight) and 40Mi for the program itself: the pod would be killed" $limit $memory) -}}
{{- end -}}
{{- if and .Values.keda.enabled (gt (int .Values.keda.minReplicas) (int .Values.keda.maxReplicas)) -}}
{{- fail "keda.minReplicas is more than keda.maxReplicas" -}}
{{- end -}}
{{- end -}}
