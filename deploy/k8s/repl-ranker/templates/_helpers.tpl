{{/* What several templates share: names, labels, settings, and what makes a pod harmless. */}}
{{- define "repl.name" -}}
{{- if contains "repl-ranker" .Release.Name }}{{ .Release.Name | trunc 50 }}{{ else }}{{ printf "%s-repl-ranker" .Release.Name | trunc 50 }}{{ end }}
{{- end }}

{{- define "repl.labels" -}}
app.kubernetes.io/name: repl-ranker
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "repl.selector" -}}
app.kubernetes.io/name: repl-ranker
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "repl.tag" -}}
{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "repl.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "repl.container" -}}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Settings of ranker, trainer and topics: what is secret comes from the Secret that the values name. */}}
{{- define "repl.env" -}}
- name: REPL_DATA_DIR
  value: /data
- name: REPL_BASE_DIR
  value: /base
- name: REPL_TENANT
  value: {{ .Values.tenant | quote }}
- name: REPL_LOG_URL
  value: {{ required "logUrl is not set: for example kafka://kafka:9092/shop" .Values.logUrl | quote }}
{{- with .Values.logUser }}
- name: REPL_LOG_USER
  value: {{ . | quote }}
{{- end }}
{{- with .Values.secrets.logPassword }}
- name: REPL_LOG_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $.Values.secrets.name }}, key: {{ . }}}}
{{- end }}
- name: REPL_WEIGHTS_URL
  valueFrom:
    secretKeyRef:
      name: {{ required "secrets.name is not set: make a Secret with the keys admin-key and weights-url, and name it" .Values.secrets.name }}
      key: {{ .Values.secrets.weightsUrl }}
- name: REPL_USER_STATES_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.secrets.name }}, key: {{ .Values.secrets.weightsUrl }}}}
- name: OMP_NUM_THREADS
  value: "1"
{{- range $name, $value := .Values.settings }}
- name: REPL_{{ $name | upper }}
  value: {{ if kindIs "string" $value }}{{ $value | quote }}{{ else }}{{ $value | toJson | quote }}{{ end }}
{{- end }}
{{- end }}

{{/* The image's compiled kernels, copied to where a pod may write: another processor compiles its own. */}}
{{- define "repl.kernels" -}}
- name: kernels
  image: {{ . }}
  command: [cp, -r, --preserve=timestamps, /kernels/., /kernels-of-this-pod/]
  resources:
    requests: {cpu: 100m, memory: 32Mi}
    limits: {memory: 128Mi}
  volumeMounts:
    - {name: kernels, mountPath: /kernels-of-this-pod}
{{- end }}

{{- define "repl.mounts" -}}
- {name: data, mountPath: /data}
- {name: kernels, mountPath: /kernels}
- {name: tmp, mountPath: /tmp}
{{- if .Values.base.existingClaim }}
- {name: base, mountPath: /base, readOnly: true}
{{- end }}
{{- if .Values.nightly.enabled }}
- {name: bases, mountPath: /bases, readOnly: true}
{{- end }}
{{- end }}

{{- define "repl.volumes" -}}
- name: kernels
  emptyDir: {sizeLimit: 256Mi}
- name: tmp
  emptyDir: {medium: Memory, sizeLimit: 64Mi}
{{- with .Values.base.existingClaim }}
- name: base
  persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}
{{- end }}
{{- if .Values.nightly.enabled }}
- name: bases
  persistentVolumeClaim: {claimName: {{ .Values.nightly.claim }}, readOnly: true}
{{- end }}
{{- end }}
