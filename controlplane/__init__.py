"""What operators use: the command line, and later incidents, actions, jobs and pages."""
