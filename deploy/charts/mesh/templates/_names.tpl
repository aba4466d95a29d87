{{/* Names are fixed: what they name is one per cluster, and certificates and tokens name it. */}}

{{- define "mesh.labels" -}}
app.kubernetes.io/part-of: weft
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | quote }}
{{ include "mesh.selector" . }}
{{- end }}

{{/* What selects an end's pods: never changed, as selectors cannot be. */}}
{{- define "mesh.selector" -}}
app.kubernetes.io/name: {{ .name }}
{{- end }}

{{/* registry/repository@digest, or registry/repository:tag. */}}
{{- define "mesh.image" -}}
{{- $image := .root.Values.image -}}
{{- with $image.registry }}{{ . }}/{{ end }}{{ .of.repository }}
{{- if .of.digest }}@{{ .of.digest }}{{ else }}:{{ $image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "mesh.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* For what needs nothing of the node: no user 0, no capability, nothing writable, no setuid. */}}
{{- define "mesh.unprivileged" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
privileged: false
readOnlyRootFilesystem: true
{{- end }}

{{- define "mesh.nonroot" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "mesh.bootstrapNamespaces" -}}
{{- $names := .Values.meshConfig.bootstrapNamespaces -}}
{{- if kindIs "invalid" $names }}{{ $names = list "kube-system" .Release.Namespace }}{{ end -}}
{{- toJson $names -}}
{{- end }}
