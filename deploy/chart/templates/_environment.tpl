{{- /*
A value as the text of a variable. YAML's numbers arrive as floating point, which would print a million as 1e+06.
*/ -}}
{{- define "connect.text" -}}
{{- if kindIs "slice" . -}}
{{ join "," . }}
{{- else if kindIs "float64" . -}}
{{ int64 . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end -}}

{{- define "connect.environment" -}}
- name: CONNECT_NAME
  value: {{ include "connect.name" . | quote }}
{{- range $key, $value := omit .Values.config "name" }}
{{- if kindIs "map" $value }}
{{- range $field, $inner := $value }}
- name: {{ printf "CONNECT_%s_%s" $key $field | upper }}
  value: {{ include "connect.text" $inner | quote }}
{{- end }}
{{- else }}
- name: {{ printf "CONNECT_%s" $key | upper }}
  value: {{ include "connect.text" $value | quote }}
{{- end }}
{{- end }}
{{- range $section, $fields := .Values.secrets }}
{{- range $field, $_ := $fields }}
- name: {{ printf "CONNECT_%s_%s_FILE" $section $field | upper }}
  value: /etc/connect/{{ $section }}/{{ $field }}
{{- end }}
{{- end }}
{{- range $section, $fields := .Values.files }}
{{- range $field, $_ := $fields }}
- name: {{ printf "CONNECT_%s_%s" $section $field | upper }}
  value: /etc/connect/{{ $section }}/{{ $field }}
{{- end }}
{{- end }}
{{- end -}}

{{- /*
What only this kind of workload sets: who this pod is among its like. The pod of a check is none of them: its place is never
taken by it, and the labels that number the others are not on it, so it tries the settings of the first shard.
*/ -}}
{{- define "connect.identity" -}}
{{- if and (eq .Values.mode "static") (not .check) }}
- name: CONNECT_KAFKA_INSTANCE_ID
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- else if eq .Values.mode "shards" }}
{{- $number := "metadata.labels['apps.kubernetes.io/pod-index']" }}
{{- include "connect.shard" (dict "check" .check "number" $number "of" .Values.replicas) }}
{{- else if eq .Values.mode "backfill" }}
- name: CONNECT_KAFKA_STOP
  value: end
{{- if gt (int .Values.backfill.shards) 1 }}
{{- $number := "metadata.annotations['batch.kubernetes.io/job-completion-index']" }}
{{- include "connect.shard" (dict "check" .check "number" $number "of" .Values.backfill.shards) }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "connect.shard" }}
{{- if not .check }}
- name: SHARD
  valueFrom:
    fieldRef:
      fieldPath: {{ .number }}
{{- end }}
- name: CONNECT_KAFKA_ASSIGNMENT
  value: static
- name: CONNECT_SHARD
  value: {{ .check | ternary "0" "$(SHARD)" }}/{{ int .of }}
{{- end -}}
