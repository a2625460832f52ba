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

{{- /* What only this kind of workload sets: who this pod is among its like. */ -}}
{{- define "connect.identity" -}}
{{- if eq .Values.mode "static" }}
- name: CONNECT_KAFKA_INSTANCE_ID
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- else if eq .Values.mode "shards" }}
- name: SHARD
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels['apps.kubernetes.io/pod-index']
- name: CONNECT_KAFKA_ASSIGNMENT
  value: static
- name: CONNECT_SHARD
  value: $(SHARD)/{{ int .Values.replicas }}
{{- else if eq .Values.mode "backfill" }}
- name: CONNECT_KAFKA_STOP
  value: end
{{- if gt (int .Values.backfill.shards) 1 }}
- name: SHARD
  valueFrom:
    fieldRef:
      fieldPath: metadata.annotations['batch.kubernetes.io/job-completion-index']
- name: CONNECT_KAFKA_ASSIGNMENT
  value: static
- name: CONNECT_SHARD
  value: $(SHARD)/{{ int .Values.backfill.shards }}
{{- end }}
{{- end }}
{{- end -}}
