package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/google/go-jsonnet"
)

// What the mixin asks of a scrape.
type question struct {
	name    string // of the alert, or of the dashboard's panel
	isAlert bool
	promQL  string
}

// The mixin's dashboards are built with a library of Grafana's that is not part of the module. All that is wanted of it
// is the expression of a panel.
const noGrafana = `{ query: { prometheus: {
	new(source, expression):: { expr: expression },
	withLegendFormat(text):: {},
	withInterval(text):: {},
	withFormat(text):: {},
} } }`

// The files of the mixin, with noGrafana in the place of that library.
type importer struct {
	inner jsonnet.FileImporter
}

func (i *importer) Import(from, path string) (jsonnet.Contents, string, error) {
	if filepath.Base(path) == "g.libsonnet" {
		return libraryContents, "g.libsonnet", nil
	}
	return i.inner.Import(from, path)
}

var libraryContents = jsonnet.MakeContents(noGrafana)

// readMixin evaluates etcd's own mixin, from the directory contrib/mixin of its module.
func readMixin(directory string) ([]question, error) {
	vm := jsonnet.MakeVM()
	vm.Importer(&importer{})
	snippet := fmt.Sprintf(`
		local config = (import %[1]q)._config;
		local alerts = (import %[1]q) + (import %[2]q);
		{
			alerts: [{ name: rule.alert, expr: rule.expr }
				for group in alerts.prometheusAlerts.groups for rule in group.rules],
			local targets = (import %[3]q)({ datasource: { name: 'datasource' } }, config),
			panels: [{ name: name, expr: target.expr }
				for name in std.objectFields(targets)
				for target in (if std.isArray(targets[name]) then targets[name] else [targets[name]])],
		}`,
		filepath.Join(directory, "config.libsonnet"),
		filepath.Join(directory, "alerts", "alerts.libsonnet"),
		filepath.Join(directory, "dashboards", "targets.libsonnet"))
	text, err := vm.EvaluateAnonymousSnippet("questions", snippet)
	if err != nil {
		return nil, err
	}
	var found struct{ Alerts, Panels []struct{ Name, Expr string } }
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		return nil, err
	}
	var questions []question
	for _, alert := range found.Alerts {
		questions = append(questions, question{alert.Name, true, alert.Expr})
	}
	// What Grafana fills in.
	filled := strings.NewReplacer("$cluster", job, "$__rate_interval", "30s")
	for _, panel := range found.Panels {
		questions = append(questions, question{panel.Name, false, filled.Replace(panel.Expr)})
	}
	return append(questions, extra...), nil
}

// Queries of dashboards in wide use that the mixin's own lacks.
var extra = []question{
	{"proposals committed", false, `rate(etcd_server_proposals_committed_total{job="etcd"}[30s])`},
	{"proposals applied", false, `rate(etcd_server_proposals_applied_total{job="etcd"}[30s])`},
	{"proposals pending", false, `etcd_server_proposals_pending{job="etcd"}`},
	{"proposals failed", false, `rate(etcd_server_proposals_failed_total{job="etcd"}[30s])`},
	{"database in use", false, `etcd_mvcc_db_total_size_in_use_in_bytes{job="etcd"} / etcd_server_quota_backend_bytes{job="etcd"}`},
	{"open files", false, `process_open_fds{job="etcd"} / process_max_fds{job="etcd"}`},
}
