package main

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// A resource whose objects are written and watched.
type resource struct {
	schema.GroupVersionResource
	kind string
	// What an object says besides its name; step tells writes of one object apart.
	content func(step int) map[string]any
}

func (r resource) object(name string, step int) *unstructured.Unstructured {
	content := r.content(step)
	content["apiVersion"] = r.GroupVersion().String()
	content["kind"] = r.kind
	content["metadata"] = map[string]any{"name": name}
	return &unstructured.Unstructured{Object: content}
}

var configMaps = resource{
	GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "configmaps"},
	kind:                 "ConfigMap",
	content: func(step int) map[string]any {
		return map[string]any{"data": map[string]any{"step": fmt.Sprint(step)}}
	},
}

// With encryption at rest, where the apiserver was told to.
var secrets = resource{
	GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "secrets"},
	kind:                 "Secret",
	content: func(step int) map[string]any {
		return map[string]any{"stringData": map[string]any{"step": fmt.Sprint(step)}}
	},
}

// Nobody runs these here: what counts are the objects.
var deployments = resource{
	GroupVersionResource: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"},
	kind:                 "Deployment",
	content: func(step int) map[string]any {
		labels := map[string]any{"app": "informers"}
		return map[string]any{"spec": map[string]any{
			"replicas": int64(step),
			"selector": map[string]any{"matchLabels": labels},
			"template": map[string]any{
				"metadata": map[string]any{"labels": labels},
				"spec": map[string]any{"containers": []any{
					map[string]any{"name": "main", "image": "example.com/main"},
				}},
			},
		}}
	},
}

// From virtual-machine-crd.json.
var machines = resource{
	GroupVersionResource: schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "virtualmachines"},
	kind:                 "VirtualMachine",
	content: func(step int) map[string]any {
		return map[string]any{"spec": map[string]any{
			"cpus": int64(step), "memory": "2Gi", "running": true,
		}}
	},
}

var resources = []resource{configMaps, secrets, deployments, machines}
