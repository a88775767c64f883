"A blog bot: reads asks and replies, writes several answers, posts the one that readers should like best"
