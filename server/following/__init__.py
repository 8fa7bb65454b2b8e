"""Placement that follows the traffic: what was observed, what it asks for, when to re-allocate.

Pure, but for the child process that searches. The front-end fills `Traffic`; the supervisor's loop
(`server.supervision.follower`) owns the controller.
"""
