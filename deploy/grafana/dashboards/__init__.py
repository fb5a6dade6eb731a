"""The Grafana dashboards as code. `make dashboards` renders them to JSON; nothing here is edited in Grafana.

`queries` writes PromQL from the metric catalogue, `panels` what all panels have in common, `frame` what all dashboards
have in common. `service` and `gpu` are the dashboards, a function for each row. `rendered` reads what became of them.
"""
