{{- /* Ends with one clear line where a cluster doesn't know the kind of an object that is to be made. Without a cluster
(`helm template`, `helm lint`) Helm knows of no kinds at all, only of versions, and nothing is refused. */ -}}
{{- define "vitruvian.needs" -}}
{{- $versions := .root.Capabilities.APIVersions -}}
{{- if and ($versions.Has "v1/ConfigMap") (not ($versions.Has .kind)) -}}
{{- fail (printf "the cluster has no %s, which %s needs: install %s, or set it to false" .kind .value .from) -}}
{{- end -}}
{{- end -}}
