"""Playground page of a network that reads digits, for browsers.

======================  ====================================================================
`command.py`            the command line, and the server on the loopback address
`page.py`               the page: template, style, scripts and network in one file
`network.py`            the network as the page's scripts need it
`examples.py`           digits to begin with, and how the means of thinned networks differ
`mask_contract.js`      the mask contract
`network.js`            prediction, with all units and of thinned networks
`drawing.js`            from strokes to 28 x 28 pixels
`views.js`              what the page shows of a prediction
`batch_view.js`         the mask of a batch, whole and in two parts
`controls.js`           what the user can do
`page.html`, `page.css` template and style
======================  ====================================================================
"""
