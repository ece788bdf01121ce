"""What is wrong with a model file before anybody runs it: `aprgraph check`, and where a NaN of the weights lies."""
