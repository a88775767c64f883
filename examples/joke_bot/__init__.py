"A bot that tells jokes, asks what people think of them, and learns which ones to tell"
