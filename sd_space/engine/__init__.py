"""Who steps: many requests share each call of the UNet, and every picture is screened before it leaves."""
