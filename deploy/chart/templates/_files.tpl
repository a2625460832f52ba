{{- /* The files whose content is among the values, as data of a ConfigMap. */ -}}
{{- define "connect.contents" -}}
{{- range $section, $fields := .Values.files }}
{{- range $field, $file := $fields }}
{{- if $file.content }}
{{ $section }}.{{ $field }}: {{ $file.content | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Every file, each below the directory of its section. */ -}}
{{- define "connect.sources" -}}
{{- $configMap := .configMap -}}
{{- range $group := list .Values.secrets .Values.files }}
{{- range $section, $fields := $group }}
{{- range $field, $file := $fields }}
{{- if $file.existingSecret }}
- secret:
    name: {{ $file.existingSecret }}
    items:
      - key: {{ $file.key }}
        path: {{ $section }}/{{ $field }}
{{- else if $file.existingConfigMap }}
- configMap:
    name: {{ $file.existingConfigMap }}
    items:
      - key: {{ $file.key }}
        path: {{ $section }}/{{ $field }}
{{- else }}
- configMap:
    name: {{ $configMap }}
    items:
      - key: {{ $section }}.{{ $field }}
        path: {{ $section }}/{{ $field }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
