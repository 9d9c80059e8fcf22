{{- define "macula.selector" -}}
app.kubernetes.io/name: macula
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "macula.labels" -}}
{{ include "macula.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "macula.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- /* As JSON, for fromJsonArray. */}}
{{- define "macula.meshNamespaces" -}}
{{- .Values.meshNamespaces | default (list .Release.Namespace) | toJson }}
{{- end }}

{{- define "macula.webhook" -}}
rules:
- apiGroups: [""]
  apiVersions: [v1]
  operations: [CREATE]
  resources: [pods]
  scope: Namespaced
clientConfig:
  service:
    name: macula-operator
    namespace: {{ .Release.Namespace }}
    path: /inject
    port: 443
admissionReviewVersions: [v1]
failurePolicy: Fail
matchPolicy: Equivalent
reinvocationPolicy: IfNeeded
sideEffects: NoneOnDryRun
timeoutSeconds: 5
{{- end }}
