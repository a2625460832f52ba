{{- /*
The part of a pod that all workloads share. Takes the root context with `check` (try the settings and end, instead of
running), `configMap` (with the files' contents), `serviceAccount` and `restartPolicy`.
*/ -}}
{{- define "connect.pod" -}}
{{- include "connect.check" . -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with .serviceAccount }}
serviceAccountName: {{ . }}
{{- end }}
automountServiceAccountToken: false
# Otherwise a service called `connect-redis` would put variables of our own prefix into the environment.
enableServiceLinks: false
restartPolicy: {{ .restartPolicy }}
terminationGracePeriodSeconds: {{ include "connect.gracePeriod" . }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  {{- if not .Values.openshift }}
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: connector
    image: {{ include "connect.image" . }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    {{- if .check }}
    args: [check]
    {{- end }}
    env:
      {{- include "connect.environment" . | nindent 6 }}
      {{- with include "connect.identity" . }}
      {{- . | trim | nindent 6 }}
      {{- end }}
    {{- if not .check }}
    ports:
      - name: metrics
        containerPort: {{ include "connect.port" . }}
    # Only the process' own loops: a store that is down must not get its connectors killed.
    livenessProbe:
      httpGet:
        path: /livez
        port: metrics
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 3
    readinessProbe:
      httpGet:
        path: /readyz
        port: metrics
      periodSeconds: 5
      timeoutSeconds: 5
      failureThreshold: 1
    {{- end }}
    resources: {{- toYaml .Values.resources | nindent 6 }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities:
        drop: [ALL]
    {{- if or .Values.secrets .Values.files }}
    volumeMounts:
      - name: files
        mountPath: /etc/connect
        readOnly: true
    {{- end }}
{{- if or .Values.secrets .Values.files }}
volumes:
  - name: files
    projected:
      # 0440
      defaultMode: 288
      sources: {{- include "connect.sources" . | trim | nindent 8 }}
{{- end }}
{{- end -}}

{{- define "connect.podMetadata" -}}
labels:
  {{- include "connect.selector" . | nindent 2 }}
  {{- with .Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $contents := include "connect.contents" . }}
{{- if or $contents .Values.podAnnotations }}
annotations:
  {{- if $contents }}
  # Files are read at the start, so a change of one has to start the pods anew. A change of a setting does that by itself.
  checksum/files: {{ sha256sum $contents }}
  {{- end }}
  {{- with .Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- /* Takes the root context: pods of a release go to different zones and nodes where there are several. */ -}}
{{- define "connect.topologySpread" -}}
{{- if kindIs "slice" .Values.topologySpreadConstraints }}
{{- with .Values.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml . | nindent 2 }}
{{- end }}
{{- else }}
topologySpreadConstraints:
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "connect.selector" $ | nindent 8 }}
{{- end }}
{{- end }}
{{- end -}}
