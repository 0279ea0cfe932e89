"""Plans: how many texts or queries a gate needs to tell a drop from noise."""
