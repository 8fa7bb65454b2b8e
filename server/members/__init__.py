"""What is known of members and rules before they are served; all that is wrong is found here."""
