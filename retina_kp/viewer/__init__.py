"""What people look at and click on: one viewer in JavaScript, as a widget of a notebook and as part of a page."""
