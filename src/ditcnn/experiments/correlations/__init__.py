"""Images whose classes differ in correlation alone."""
