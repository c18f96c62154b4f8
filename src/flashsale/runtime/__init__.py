"""What every process needs: logs, metrics, and how processes start and stop."""
