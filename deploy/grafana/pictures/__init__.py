"""Pictures of the dashboards for the documentation, drawn from the rendered JSON and a Prometheus, without Grafana.

They show each panel's data with its title, unit, legend, colours and thresholds, where the dashboard places it. They
are no screenshots: fonts and axes are matplotlib's.
"""
