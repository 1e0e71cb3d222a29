{{- define "managed-sessions.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{/* Settings of a process as strings: a number is written without an exponent. */}}
{{- define "managed-sessions.settings" -}}
{{- $all := merge (dict) .own .root.Values.settings -}}
{{- if ne .root.Values.resourceNamespace "managed-sessions" -}}
{{- $all = merge (dict "MANAGED_SESSIONS_NAMESPACE" .root.Values.resourceNamespace) $all -}}
{{- end -}}
{{- $texts := dict -}}
{{- range $name, $value := $all -}}
{{- $_ := set $texts $name (ternary (toJson $value) (toString $value) (kindIs "float64" $value)) -}}
{{- end -}}
{{- with $texts }}{{ toYaml . }}{{ end -}}
{{- end }}

{{/* Guards of several installations have different names. */}}
{{- define "managed-sessions.deletionGuard" -}}
managed-sessions-deletion-guard{{ if or (ne .Values.resourceNamespace "managed-sessions") (ne .Release.Namespace "managed-sessions-system") }}-{{ .Values.resourceNamespace }}{{ end }}
{{- end }}

{{- define "managed-sessions.scheduling" -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pods.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pods.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pods.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pods.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* A change of the settings restarts the pods. */}}
{{- define "managed-sessions.podAnnotations" -}}
{{- $annotations := .pods.podAnnotations -}}
{{- with include "managed-sessions.settings" (dict "root" .root "own" .pods.settings) -}}
{{- $annotations = merge (dict "managedagents.dev/settings" (sha256sum .)) $annotations -}}
{{- end -}}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
